"""Tars as strangers write them: odd members, long names, repeated uids, damage."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from pipelines.errors import PackError
from pipelines.execution.executors import map_here
from pipelines.formats.tars import TarError, header, members, samples
from pipelines.images.reshard import iter_samples, pack
from pipelines.storage.open import open_store
from tests.pipelines.images.made_up_tars import (
    UID,
    info,
    one_sample,
    tar_of,
    write_pool,
    write_subset,
)

# ---- tars


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (info("../../etc/x.jpg"), "leaves its folder"),
        (info("/etc/x.jpg"), "leaves its folder"),
        (info("a/../../x.jpg"), "leaves its folder"),
    ],
)
def test_members_that_no_sample_has_are_named(member: tarfile.TarInfo, message: str) -> None:
    data = tar_of((info("00.txt"), b"good"), (member, b""))
    with pytest.raises(TarError, match=message):
        list(samples(memoryview(data), "t.tar"))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (info("x.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link_or_device"),
        (info("x.jpg", tarfile.LNKTYPE, "y.jpg"), "link_or_device"),
        (info("x.jpg", tarfile.CHRTYPE), "link_or_device"),
        (info("README"), "name_without_extension"),
        (info("a/README"), "name_without_extension"),
        (info("x."), "name_without_extension"),
        (info("x.j\u00e9"), "name_without_extension"),
        (info("._00.jpg"), "hidden_file"),
        (info(".DS_Store"), "hidden_file"),
        (info("a/._00.jpg"), "hidden_file"),
        (info("__MACOSX/a/00.jpg"), "hidden_file"),
    ],
)
@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_what_no_sample_has_is_passed_over_and_counted(
    member: tarfile.TarInfo, reason: str, fmt: int
) -> None:
    long = (
        (info("k" * 120 + ".txt"), b"long") if fmt == tarfile.PAX_FORMAT else (info("k.txt"), b"")
    )
    data = tar_of(
        (member, b""), (info("00.jpg"), b"a"), (member, b""), (info("00.txt"), b"b"), long, fmt=fmt
    )
    passed: Counter[str] = Counter()
    read = [[m.extension for m in sample] for sample in samples(memoryview(data), "t", passed)]
    assert read == [["jpg", "txt"], ["txt"]]
    assert passed == {reason: 2}


def test_capital_extensions_are_those_of_a_sample() -> None:
    data = tar_of((info("00.JPG"), b"a"), (info("00.Json"), b"{}"))
    [sample] = samples(memoryview(data), "t")
    assert [member.extension for member in sample] == ["jpg", "json"]


@pytest.mark.parametrize("long", [False, True])
def test_a_tar_behind_another_is_read_and_anything_else_there_is_a_fault(long: bool) -> None:
    name = "k" * 120 if long else "k"
    fmt = tarfile.PAX_FORMAT if long else tarfile.USTAR_FORMAT
    first = tar_of((info(f"{name}.txt"), b"one"), fmt=fmt)
    second = tar_of((info(f"{name}2.txt"), b"two"), fmt=fmt)
    whole = memoryview(first + bytes(2048) + second)
    read = [bytes(whole[m.start : m.start + m.size]) for m in members(whole, "t")]
    assert read == [b"one", b"two"]
    for behind in (b"rubbish".ljust(512, b"x"), b"rubbish", second[:700]):
        with pytest.raises(TarError):
            list(members(memoryview(first + behind), "t"))


def test_a_size_in_base_256_is_read() -> None:
    data = bytearray(tar_of((info("a.txt"), b"abc"), (info("b.txt"), b"d")))
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    total = sum(data[:148]) + 8 * 32 + sum(data[156:512])
    data[148:156] = b"%06o\0 " % total
    assert [m.size for m in members(memoryview(bytes(data)), "t")] == [3, 1]


@pytest.mark.parametrize(
    ("content", "counted"),
    [
        (b'{"uid": "%s", "score": NaN, "x": -Infinity}' % UID.encode(), None),
        (b'\xef\xbb\xbf{"uid": "%s"}' % UID.encode(), None),
        (b'{"uid": "%s", "caption": "caf\xe9"}' % UID.encode(), None),
        (b'{"uid": "%s", "caption": "\\ud800"}' % UID.encode(), None),
        (b'{"uid": "-1"}', "no_uid"),
        *(
            (orjson.dumps({"uid": uid}), "no_uid")
            for uid in (
                UID.upper(),
                UID[:-1],
                UID + "0",
                f" {UID[1:]}",
                f"0x{UID[2:]}",
                "",
                7,
                None,
            )
        ),
        (orjson.dumps({"uid": UID[:30] + "1_"}), "no_uid"),
        (b'{"uid": "' + "\u0661".encode() * 32 + b'"}', "no_uid"),
        (b"[1]", "json_without_uid"),
        (b"{", "json_without_uid"),
        (b"[" * 100_000, "json_without_uid"),
    ],
)
def test_a_uid_is_32_lower_case_digits_whoever_wrote_the_json(
    content: bytes, counted: str | None, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    data = tar_of((info("0.jpg"), b"image"), (info("0.json"), content))
    (tmp_path / "in" / "0.tar").write_bytes(data)
    subset = write_subset(tmp_path / "s.npy", [UID])
    done = pack(str(tmp_path / "in"), subset, out=str(tmp_path / "o"), map_tasks=map_here)
    assert done.output_count == (counted is None)
    assert done.skipped == ({} if counted is None else {counted: 1})


@pytest.mark.parametrize("group_shards", [1, 2, 64])
@pytest.mark.parametrize("dry_run", [False, True])
def test_of_samples_with_one_uid_the_first_is_taken(
    tmp_path: Path, group_shards: int, dry_run: bool
) -> None:
    """Within a tar, in a copy of the tar, and in the group after it."""
    uids = [f"{n:032x}" for n in range(4)]
    folder = tmp_path / "in"
    (folder / "old").mkdir(parents=True)
    first = tar_of(*one_sample("0", uids[0]), *one_sample("1", uids[1]), *one_sample("2", uids[0]))
    (folder / "0.tar").write_bytes(first)
    (folder / "0 (1).tar").write_bytes(first)
    (folder / "old" / "0.tar").write_bytes(first)
    (folder / "9.tar").write_bytes(tar_of(*one_sample("8", uids[2]), *one_sample("9", uids[1])))
    (folder / "._0.tar").write_bytes(b"AppleDouble")
    subset = write_subset(tmp_path / "s.npy", [uids[0], uids[0], uids[1], uids[2], uids[3]])
    out = tmp_path / "o"
    done = pack(
        str(folder),
        subset,
        out=str(out),
        map_tasks=map_here,
        group_shards=group_shards,
        dry_run=dry_run,
        repeats="first",
    )
    assert (done.processed_count, done.output_count, done.missing) == (11, 4, 1)
    assert done.skipped == {"repeated_uid": 8}
    if not dry_run:
        keys = [key for key, _ in iter_samples(str(out))]
        assert sorted(keys) == [f"{uids[0]}-0", f"{uids[0]}-1", f"{uids[1]}-0", f"{uids[2]}-0"]
        left = {path.name for path in out.rglob("*") if path.is_file()}
        assert not [name for name in left if name.startswith("0000") and "-" in name]


@pytest.mark.parametrize("group_shards", [1, 64])
def test_what_the_reference_writes_twice_is_counted(tmp_path: Path, group_shards: int) -> None:
    (tmp_path / "in").mkdir()
    for name in ("0.tar", "1.tar"):
        (tmp_path / "in" / name).write_bytes(tar_of(*one_sample(name[0], UID)))
    subset = write_subset(tmp_path / "s.npy", [UID])
    out = str(tmp_path / "o")
    done = pack(
        str(tmp_path / "in"), subset, out=out, map_tasks=map_here, group_shards=group_shards
    )
    assert (done.output_count, done.repeated, done.skipped) == (2, 1, {})


def test_an_extension_that_no_header_holds_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    long = (info("7." + "x" * 80), b"long")
    data = tar_of(*one_sample("7", UID), long, *one_sample("8", "0" * 32))
    (tmp_path / "in" / "0.tar").write_bytes(data)
    subset = write_subset(tmp_path / "s.npy", [UID, "0" * 32])
    source = str(tmp_path / "in")
    with pytest.raises(PackError, match=r"0\.tar: the extension 'x+' of the sample 7 is too long"):
        pack(source, subset, out=str(tmp_path / "o"), map_tasks=map_here)
    done = pack(source, subset, out=str(tmp_path / "p"), map_tasks=map_here, quarantine=True)
    assert (done.output_count, done.skipped) == (1, {"long_extension": 1})


def test_long_names_and_folders_are_read(tmp_path: Path) -> None:
    long = "d" * 120 + "/" + "k" * 80 + ".seg.png"
    for fmt in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        name = long if fmt != tarfile.USTAR_FORMAT else "folder/" * 20 + "key.seg.png"
        data = tar_of((info("folder", tarfile.DIRTYPE), b""), (info(name), b"png"), fmt=fmt)
        [member] = members(memoryview(data), "t.tar")
        assert member.extension == "seg.png"
        assert data[member.start : member.start + member.size] == b"png"
    assert tmp_path


def test_two_members_of_one_name_are_refused() -> None:
    data = tar_of((info("00.txt"), b"a"), (info("00.txt"), b"b"))
    with pytest.raises(TarError, match=r"two members 00\.txt"):
        list(samples(memoryview(data), "t.tar"))
    again = samples(memoryview(data), "t.tar", repeats=True)  # as open_clip reads packed shards
    assert [len(sample) for sample in again] == [1, 1]


def test_a_tar_that_is_compressed_is_named_for_what_it_is() -> None:
    data = gzip.compress(tar_of((info("00.txt"), b"a")))
    with pytest.raises(TarError, match="the file is compressed with gzip, not a tar; unpack it"):
        list(members(memoryview(data), "t.tar"))


def test_our_headers_are_those_that_others_read() -> None:
    data = header(b"key-0.jpg", 3) + b"abc".ljust(512, b"\0") + b"\0" * 1024
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        [actual] = archive.getmembers()
    assert (actual.name, actual.size, actual.mode) == ("key-0.jpg", 3, 0o444)
    with pytest.raises(ValueError, match="does not fit"):
        header(b"x" * 101, 1)


def test_a_cut_tar_gives_every_sample_that_is_whole(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "in", tars=1, per_tar=30)
    file = tmp_path / "in" / "00000000.tar"
    whole = file.read_bytes()
    ends = [s[-1].start + s[-1].size for s in samples(memoryview(whole), "t")]
    subset = write_subset(tmp_path / "s.npy", uids)
    rng = np.random.default_rng(0)
    for attempt, cut in enumerate(rng.integers(0, ends[-1], 40).tolist()):
        file.write_bytes(whole[:cut])
        done = pack(
            str(tmp_path / "in"),
            subset,
            out=str(tmp_path / f"o{attempt}"),
            map_tasks=map_here,
            quarantine=True,
        )
        before = sum(end <= cut for end in ends)
        assert before - 1 <= done.output_count <= before
        assert done.missing == 30 - done.output_count


def test_mutated_tars_are_refused_or_read_and_counts_add_up(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "in", tars=1, per_tar=12)
    file = tmp_path / "in" / "00000000.tar"
    whole = file.read_bytes()
    subset = write_subset(tmp_path / "s.npy", uids)
    rng = np.random.default_rng(1)
    refused = 0
    for attempt in range(250):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 5))):
            block = int(rng.integers(0, len(data) // 512)) * 512
            position = block + int(rng.integers(0, 512))
            data[position] = int(rng.integers(0, 256))
        file.write_bytes(bytes(data))
        options: dict[str, Any] = {"out": str(tmp_path / f"o{attempt}"), "map_tasks": map_here}
        try:
            done = pack(str(tmp_path / "in"), subset, **options)
        except TarError:
            refused += 1
            done = pack(
                str(tmp_path / "in"), subset, quarantine=True, **options | {"overwrite": True}
            )
            assert done.skipped["damaged_tar"] == 1
        assert done.output_count <= 12
        made = list(iter_samples(str(tmp_path / f"o{attempt}"))) if done.output_count else []
        assert len(made) == done.output_count
    assert refused > 20


def test_more_members_than_any_shard_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.formats import tars

    monkeypatch.setattr(tars, "MAX_MEMBERS", 10)
    data = tar_of(*[(info(f"{n}.txt"), b"") for n in range(11)])
    with pytest.raises(TarError, match="more than"):
        list(samples(memoryview(data), "t.tar"))


def test_moving_twice_changes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with store.create("a/x") as writer:
        writer.write(b"1")
    store.move("a/x", "b/y")
    store.move("a/x", "b/y")
    assert store.read_bytes("b/y") == b"1"
    with pytest.raises(FileNotFoundError, match="a/x"):
        store.move("a/x", "c")
