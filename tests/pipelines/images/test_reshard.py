"""The resharder: the reference's cases, the same bytes however it runs, and what it refuses."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from pipelines.errors import PackError, SubsetError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.uid_lists import load_subset
from pipelines.images.reshard import GroupTask, iter_samples, pack
from tests.pipelines.images.made_up_tars import bytes_of, write_pool, write_subset

INPUTS = ("00000000.tar", "00000001.tar", "00000002.tar", "00000005.tar")  # those with stats


@pytest.fixture(scope="module")
def recorded(fixtures: Path) -> Path:
    return fixtures / "datacomp" / "resharder"


@pytest.fixture(scope="module")
def expected(recorded: Path) -> dict[str, Any]:
    return orjson.loads((recorded / "expected.json").read_bytes())


def contents(file: Path) -> list[list[Any]]:
    with tarfile.open(file) as archive:
        return [
            [info.name, info.size, hashlib.sha256(read(archive, info)).hexdigest()[:16]]
            for info in archive
        ]


def read(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    assert file is not None
    return file.read()


CASES: dict[str, dict[str, Any]] = {
    "j1_dup": {"shard_size": 25},
    "memmap": {"shard_size": 25},
    "default_size": {},
    "first1_n2": {"shard_size": 10, "shards": INPUTS[1:3]},
    "only_missing": {},
    "empty": {},
    "all_fmt": {
        "shard_size": 50,
        "output_format": "out-{:05d}.tar",
        "stats_format": "out-{:05d}_stats.json",
    },
}


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(CASES))
def test_shards_are_those_of_the_reference(
    name: str, recorded: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    case = expected[name]
    subset = recorded / "subsets" / case["subset"]
    options = {"shards": INPUTS} | CASES[name]
    out = tmp_path / "out"
    done = pack(str(recorded / "input"), str(subset), out=str(out), map_tasks=map_here, **options)
    tars = {file.name: contents(file) for file in sorted(out.glob("*.tar"))}
    assert tars == case["shards"]
    stats = {file.name: orjson.loads(file.read_bytes()) for file in out.glob("*_stats.json")}
    assert stats == case.get("stats", {})
    meta = orjson.loads((out / "meta.json").read_bytes())
    for count in ("processed_count", "output_count", "output_shard_count"):
        assert meta[count] == case["meta"][count]
        assert getattr(done, count) == case["meta"][count]
    ids = np.load(out / "sample_ids.npy")
    assert (ids == load_subset(str(subset))).all()
    left = {path.name for path in out.iterdir() if path.is_file()}
    extra = {"meta.json", "sample_ids.npy", "shards.json"} | set(tars) | set(stats)
    assert {name for name in left - extra if not name.startswith("work-")} == set()


@pytest.mark.parity
def test_two_groups_hold_the_same_members(
    recorded: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    subset = recorded / "subsets" / "dup_missing_sorted.npy"
    out = tmp_path / "out"
    pack(
        str(recorded / "input"),
        str(subset),
        out=str(out),
        map_tasks=map_here,
        shards=INPUTS,
        shard_size=25,
        group_shards=2,
    )
    ours = Counter(tuple(m) for file in out.glob("*.tar") for m in contents(file))
    theirs = Counter(tuple(m) for tar in expected["j2_dup"]["shards"].values() for m in tar)
    assert ours == theirs
    numbers = sorted(int(file.stem) for file in out.glob("*.tar"))
    assert numbers == list(range(len(numbers)))


@pytest.mark.parity
def test_a_dry_run_counts_and_writes_nothing(recorded: Path, tmp_path: Path) -> None:
    subset = str(recorded / "subsets" / "half_sorted.npy")
    out = tmp_path / "out"
    done = pack(
        str(recorded / "input"),
        subset,
        out=str(out),
        map_tasks=map_here,
        shards=INPUTS,
        dry_run=True,
    )
    assert done.output_count == 77
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parity
def test_gaps_and_missing_stats_lose_nothing(recorded: Path, tmp_path: Path) -> None:
    """The reference stops at the gap, and leaves out the shard without stats."""
    subset = str(recorded / "subsets" / "all_sorted.npy")
    out = tmp_path / "out"
    done = pack(str(recorded / "input"), subset, out=str(out), map_tasks=map_here)
    with_json = [s for _, s in iter_samples(str(recorded / "input")) if "json" in s]
    assert done.processed_count == len(with_json) > 152
    assert done.skipped["no_json"] > 0


@pytest.mark.parity
def test_an_unsorted_list_is_refused(recorded: Path, tmp_path: Path) -> None:
    subset = str(recorded / "subsets" / "half_unsorted.npy")
    with pytest.raises(SubsetError, match=r"is not sorted: record \d+ is less"):
        pack(str(recorded / "input"), subset, out=str(tmp_path / "o"), map_tasks=map_here)


# ---- pools made here


@pytest.fixture
def pool(tmp_path: Path) -> tuple[str, list[str], str]:
    uids = write_pool(tmp_path / "in")
    chosen = uids[::3] + uids[::9] + ["0" * 32]
    return str(tmp_path / "in"), uids, write_subset(tmp_path / "subset.npy", chosen)


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_writes_the_same_bytes(
    pool: tuple[str, list[str], str], tmp_path: Path, workers: int
) -> None:
    source, _, subset = pool
    options: dict[str, Any] = {"shard_size": 7, "group_shards": 2}
    first = pack(source, subset, out=str(tmp_path / "one"), map_tasks=map_here, **options)
    many = ProcessMap(workers)
    other = pack(source, subset, out=str(tmp_path / "two"), map_tasks=many, **options)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert first == other
    assert first.missing == 1
    again = pack(source, subset, out=str(tmp_path / "two"), map_tasks=map_here, **options)
    assert again == first


def test_members_pass_through_and_copies_stand_together(
    pool: tuple[str, list[str], str], tmp_path: Path
) -> None:
    source, uids, subset = pool
    pack(source, subset, out=str(tmp_path / "out"), map_tasks=map_here)
    plain = {orjson.loads(s["json"])["uid"]: s for _, s in iter_samples(source)}
    expected = Counter(uids[::3] + uids[::9])
    made = list(iter_samples(str(tmp_path / "out")))
    assert [key for key, _ in made] == [f"{u}-{j}" for u in uids for j in range(expected[u])]
    for key, sample in made:
        assert sample == plain[key.split("-")[0]]


def test_an_interrupted_packing_goes_on(pool: tuple[str, list[str], str], tmp_path: Path) -> None:
    source, _, subset = pool
    calls = 0

    def dying(function: Any, items: Any, **options: Any) -> Any:
        nonlocal calls
        for item in items[:2]:
            function(item)
            calls += 1
        raise KeyboardInterrupt

    options: dict[str, Any] = {"shard_size": 7, "group_shards": 1}
    with pytest.raises(KeyboardInterrupt):
        pack(source, subset, out=str(tmp_path / "a"), map_tasks=dying, **options)
    ran: list[Any] = []

    def counting(function: Any, items: Any, **more: Any) -> Any:
        ran.extend(item for item in items if isinstance(item, GroupTask))
        return map_here(function, items, **more)

    pack(source, subset, out=str(tmp_path / "a"), map_tasks=counting, **options)
    assert len(ran) == 3
    pack(source, subset, out=str(tmp_path / "b"), map_tasks=map_here, **options)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_crash_while_shards_are_numbered_is_mended(
    pool: tuple[str, list[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _, subset = pool
    from pipelines.storage.local import LocalStore

    plain = LocalStore.move
    moved = 0

    def dying(self: LocalStore, name: str, new: str) -> None:
        nonlocal moved
        moved += 1
        if moved == 3:
            raise KeyboardInterrupt
        plain(self, name, new)

    options: dict[str, Any] = {"shard_size": 7, "group_shards": 2}
    monkeypatch.setattr(LocalStore, "move", dying)
    with pytest.raises(KeyboardInterrupt):
        pack(source, subset, out=str(tmp_path / "a"), map_tasks=map_here, **options)
    monkeypatch.undo()
    pack(source, subset, out=str(tmp_path / "a"), map_tasks=map_here, **options)
    pack(source, subset, out=str(tmp_path / "b"), map_tasks=map_here, **options)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_full_folder_is_refused_or_emptied(
    pool: tuple[str, list[str], str], tmp_path: Path
) -> None:
    source, _, subset = pool
    out = tmp_path / "out"
    out.mkdir()
    (out / "00000099.tar").write_bytes(b"old")
    with pytest.raises(PackError, match=r"is not empty .*--overwrite"):
        pack(source, subset, out=str(out), map_tasks=map_here)
    pack(source, subset, out=str(out), map_tasks=map_here, overwrite=True)
    assert not (out / "00000099.tar").exists()
    with pytest.raises(PackError, match="is not empty"):
        pack(source, subset, out=str(out), map_tasks=map_here, shard_size=3)


def test_lists_of_another_kind_are_refused(tmp_path: Path) -> None:
    write_pool(tmp_path / "in", tars=1)
    np.save(tmp_path / "floats.npy", np.zeros(4))
    (tmp_path / "text.npy").write_bytes(b"no list")
    (tmp_path / "odd.bin").write_bytes(b"12345")
    for name in ("floats.npy", "text.npy", "odd.bin"):
        with pytest.raises(SubsetError, match=name):
            pack(
                str(tmp_path / "in"),
                str(tmp_path / name),
                out=str(tmp_path / "o"),
                map_tasks=map_here,
            )
    (tmp_path / "none").mkdir()
    empty = write_subset(tmp_path / "s.npy", [])
    with pytest.raises(PackError, match=r"no \.tar files"):
        pack(str(tmp_path / "none"), empty, out=str(tmp_path / "o"), map_tasks=map_here)
