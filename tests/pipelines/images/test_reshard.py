"""The resharder: the reference's cases, the same bytes however it runs, and what it refuses."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from pipelines.errors import PackError, SubsetError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.tars import TarError, header, members, samples
from pipelines.formats.uid_lists import load_subset
from pipelines.images.reshard import GroupTask, iter_samples, pack
from pipelines.kernels.uids import SUBSET
from pipelines.storage.open import open_store

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


def write_pool(folder: Path, *, tars: int = 5, per_tar: int = 40) -> list[str]:
    """Tars with seeded samples; returns all uids."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    uids = []
    for number in range(tars):
        with tarfile.open(folder / f"{number:08d}.tar", "w") as archive:
            for index in range(per_tar):
                uid = f"{rng.integers(0, 1 << 62):016x}{rng.integers(0, 1 << 62):016x}"
                uids.append(uid)
                key = f"{number:05d}{index:04d}"
                parts = {
                    "jpg": rng.bytes(int(rng.integers(0, 3000))),
                    "json": orjson.dumps({"uid": uid, "key": key}),
                    "txt": f"caption {index} ü".encode(),
                }
                for extension, data in parts.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return uids


def write_subset(path: Path, uids: list[str]) -> str:
    pairs = sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids)
    np.save(path, np.array(pairs, dtype=SUBSET))
    return str(path)


@pytest.fixture
def pool(tmp_path: Path) -> tuple[str, list[str], str]:
    uids = write_pool(tmp_path / "in")
    chosen = uids[::3] + uids[::9] + ["0" * 32]
    return str(tmp_path / "in"), uids, write_subset(tmp_path / "subset.npy", chosen)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix == ".tar"}


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


# ---- tars


def tar_of(*infos: tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=fmt) as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (info("../../etc/x.jpg"), "leads out of its folder"),
        (info("/etc/x.jpg"), "leads out of its folder"),
        (info("a/../../x.jpg"), "leads out of its folder"),
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


UID = "0123456789abcdef0123456789abcdef"


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


def one_sample(key: str, uid: str) -> tuple[tuple[tarfile.TarInfo, bytes], ...]:
    return (
        (info(f"{key}.jpg"), key.encode()),
        (info(f"{key}.json"), orjson.dumps({"uid": uid})),
    )


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
