from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from pipelines.storage.base import StorageError, write_bytes
from pipelines.storage.commits import (
    DeterminismError,
    Done,
    attempt_name,
    commit,
    find_done,
    unreferenced,
)
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store, split_uri


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_a_written_object_is_described_by_its_bytes(store: LocalStore) -> None:
    file = write_bytes(store, "a/b.txt", b"hello")
    assert store.read_bytes("a/b.txt") == b"hello"
    assert (file.name, file.num_bytes) == ("a/b.txt", 5)
    assert file.sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_an_error_while_writing_leaves_nothing(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.create("x") as writer:  # noqa: PT012
        writer.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_object_is_invisible_until_it_is_whole(store: LocalStore) -> None:
    with store.create("x") as writer:
        writer.write(b"half")
        assert not store.exists("x")
        assert list(store.list()) == []
    assert store.exists("x")


def test_listing_is_sorted_and_by_prefix(store: LocalStore) -> None:
    for name in ("b/2", "a/1", "b/1", "bc"):
        write_bytes(store, name, b"")
    assert [entry.name for entry in store.list("b")] == ["b/1", "b/2", "bc"]
    assert [entry.name for entry in store.list("b/")] == ["b/1", "b/2"]
    assert [entry.name for entry in store.list()] == ["a/1", "b/1", "b/2", "bc"]


def test_only_the_first_put_if_absent_wins(store: LocalStore) -> None:
    assert store.put_if_absent("done/k.json", b"1")
    assert not store.put_if_absent("done/k.json", b"2")
    assert store.read_bytes("done/k.json") == b"1"


def _race(arguments: tuple[str, int]) -> bool:
    root, number = arguments
    return LocalStore(Path(root)).put_if_absent("done/k.json", str(number).encode())


def test_exactly_one_of_many_processes_wins(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        wins = pool.map(_race, [(str(tmp_path), number) for number in range(8)])
    assert sum(wins) == 1
    assert list(tmp_path.rglob(".part-*")) == []


def test_a_name_that_leaves_the_folder_is_refused(store: LocalStore) -> None:
    with pytest.raises(StorageError, match="leaves the folder"):
        store.read_bytes("../secret")


def test_a_missing_object_is_named(store: LocalStore) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing"):
        store.read_bytes("nothing")


def test_commit_makes_work_visible_once(store: LocalStore) -> None:
    first = write_bytes(store, attempt_name("data/0", ".bin"), b"same")
    again = write_bytes(store, attempt_name("data/0", ".bin"), b"same")
    standing = commit(store, Done(key="k", files=(first,), seconds=1.0, host="a"))
    second = commit(store, Done(key="k", files=(again,), seconds=2.0, host="b"))
    assert second == standing == find_done(store, "k")
    assert [entry.name for entry in store.list("data/")] == [first.name]


def test_two_attempts_with_other_bytes_are_an_error(store: LocalStore) -> None:
    first = write_bytes(store, attempt_name("data/0", ".bin"), b"one")
    other = write_bytes(store, attempt_name("data/0", ".bin"), b"two")
    commit(store, Done(key="k", files=(first,)))
    with pytest.raises(DeterminismError, match="k below"):
        commit(store, Done(key="k", files=(other,)))


def test_unreferenced_names_what_killed_attempts_left(store: LocalStore, tmp_path: Path) -> None:
    kept = write_bytes(store, "data/0.0000000a.bin", b"kept")
    write_bytes(store, "data/0.0000000b.bin", b"left")
    (tmp_path / "data" / ".part-1234-0.c.bin").write_bytes(b"half")
    commit(store, Done(key="k", files=(kept,)))
    left = [entry.name for entry in unreferenced(store, folders=("data",))]
    assert left == ["data/0.0000000b.bin", "data/.part-1234-0.c.bin"]


def test_a_damaged_commit_file_says_what_to_do(store: LocalStore) -> None:
    write_bytes(store, "done/k.json", b"{")
    with pytest.raises(StorageError, match=r"done/k\.json is not a commit file.*remove it"):
        find_done(store, "k")


def test_a_full_disk_says_what_could_not_be_written(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    import errno

    from pipelines.storage.local import _no_space_named

    with (
        pytest.raises(StorageError, match=r"cannot write .*: No space left.*free space") as caught,
        _no_space_named(tmp_path / "x"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"x")
    assert caught.value.errno == errno.ENOSPC


def test_uris_open_the_place_they_name(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)).uri == str(tmp_path)
    assert open_store(f"file://{tmp_path}").uri == str(tmp_path)
    store, name = split_uri(f"{tmp_path}/a/b.txt")
    assert (store.uri, name) == (f"{tmp_path}/a", "b.txt")
    with pytest.raises(ValueError, match="cannot open 'ftp://x/y'"):
        open_store("ftp://x/y")
