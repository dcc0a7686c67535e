"""Images on disk become a pool: folders with captions, webdatasets, what img2dataset wrote."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import PoolError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.uid_lists import uid_of
from pipelines.images.own_images import import_folder, import_tars
from pipelines.images.reshard import iter_samples


def image(number: int, format: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (number * 40, 90, 10)).save(out, format)
    return out.getvalue()


def uid(data: bytes, caption: str) -> str:
    """32 digits of the sha256 of address, NUL, caption; the address is made of the bytes."""
    address = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return hashlib.sha256(f"{address}\0{caption}".encode()).hexdigest()[:32]


def pairs(out: Path) -> list[dict[str, object]]:
    return [
        row for file in sorted(out.glob("metadata/*")) for row in pq.read_table(file).to_pylist()
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(image(1))
    (folder / "a.txt").write_text("first\n")
    (folder / "sub" / "B.PNG").write_bytes(image(2, "PNG", (1200, 600)))
    (folder / "sub" / "B.PNG.caption").write_bytes("\ufeffsecond \u00e9".encode())
    (folder / "c.jpg").write_bytes(b"no image")
    (folder / "c.txt").write_text("broken")
    (folder / "d.jpg").write_bytes(image(3))
    (folder / "._a.jpg").write_bytes(b"AppleDouble")
    (folder / "notes.md").write_text("none of it")
    return folder


def test_a_folder_with_captions_beside_the_images(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    made = import_folder(str(folder), out=str(out), map_tasks=map_here)
    assert made.counts["images"] == 2
    assert (made.counts["no_caption"], made.counts["not_a_picture"]) == (1, 1)
    actual = pairs(out)
    assert [(row["text"], row["uid"]) for row in actual] == [
        ("first", uid(image(1), "first")),
        ("second \u00e9", uid(image(2, "PNG", (1200, 600)), "second \u00e9")),
    ]
    assert (actual[1]["original_width"], actual[1]["original_height"]) == (1200, 600)
    samples = list(iter_samples(str(out / "shards")))
    assert [members["txt"].decode() for _, members in samples] == ["first", "second \u00e9"]
    assert Image.open(io.BytesIO(samples[1][1]["jpg"])).size == (512, 256)
    assert [orjson.loads(members["json"])["uid"] for _, members in samples] == [
        row["uid"] for row in actual
    ]


def test_moved_or_renamed_images_keep_their_uids(folder: Path, tmp_path: Path) -> None:
    import_folder(str(folder), out=str(tmp_path / "one"), map_tasks=map_here)
    (folder / "a.jpg").rename(folder / "sub" / "z.jpg")
    (folder / "a.txt").rename(folder / "sub" / "z.txt")
    import_folder(str(folder), out=str(tmp_path / "two"), map_tasks=ProcessMap(2))
    assert {row["uid"] for row in pairs(tmp_path / "one")} == {
        row["uid"] for row in pairs(tmp_path / "two")
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("named", [False, True])
def test_captions_of_a_table(folder: Path, tmp_path: Path, suffix: str, named: bool) -> None:
    rows = [
        {"file_name": "a.jpg", "text": 'one, "quoted"\nline'},
        {"file_name": "./sub/B.PNG", "text": "12"},
        {"file_name": "gone.jpg", "text": "x"},
    ]
    table = (tmp_path if named else folder) / f"metadata{suffix}"
    if suffix == ".csv":
        text = 'file_name,text\na.jpg,"one, ""quoted""\nline"\n./sub/B.PNG,12\ngone.jpg,x\n'
        table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    elif suffix == ".jsonl":
        table.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), table)
    out = tmp_path / "pool"
    made = import_folder(
        str(folder), out=str(out), map_tasks=map_here, captions=str(table) if named else None
    )
    assert [row["text"] for row in pairs(out)] == ['one, "quoted"\nline', "12"]
    assert made.counts["listed_without_image"] == 1


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def test_a_webdataset_keeps_its_bytes_and_what_its_json_says(tmp_path: Path) -> None:
    own, url = "0123456789abcdef" * 2, "https://example.org/x.png"
    source = tmp_path / "wds"
    source.mkdir()
    with tarfile.open(source / "0.tar", "w") as tar:
        add(tar, "a.JPG", image(1))
        add(tar, "a.txt", b"first")
        add(tar, "b.png", image(2, "PNG"))
        add(tar, "b.json", b'{"uid": "%s", "caption": "second", "score": NaN}' % own.encode())
        add(tar, "c.png", image(3, "PNG"))
        add(tar, "c.json", orjson.dumps({"url": url, "caption": "third", "original_width": 900}))
        add(tar, "d.png", image(4, "PNG"))
        add(tar, "e.txt", b"no image")
        add(tar, "f.jpg", b"broken")
        add(tar, "f.txt", b"f")
        add(tar, "g.jpg", image(5))
        add(tar, "g.json", orjson.dumps({"uid": own.upper(), "caption": "g"}))
    out = tmp_path / "pool"
    made = import_tars(str(source), out=str(out), map_tasks=map_here)
    assert made.counts == {
        "images": 3,
        "no_caption": 1,
        "no_image": 1,
        "no_uid": 1,
        "not_a_picture": 1,
    }
    assert [(row["uid"], row["text"]) for row in pairs(out)] == [
        (uid(image(1), "first"), "first"),
        (own, "second"),
        (uid_of(url, "third"), "third"),
    ]
    assert pairs(out)[2]["original_width"] == 900
    kept = [members.get("jpg") or members["png"] for _, members in iter_samples(f"{out}/shards")]
    assert kept == [image(1), image(2, "PNG"), image(3, "PNG")]


def test_a_pair_that_comes_twice_is_taken_once_in_a_shard_and_counted_over_shards(
    tmp_path: Path,
) -> None:
    source = tmp_path / "wds"
    source.mkdir()
    for name in ("0.tar", "1.TAR"):
        with tarfile.open(source / name, "w") as tar:
            for key in "ab":
                add(tar, f"{key}.jpg", image(1))
                add(tar, f"{key}.txt", b"the same")
    made = import_tars(str(source), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts == {"images": 2, "repeated_uid": 2, "uid_in_another_shard": 1}


def test_captions_and_images_that_are_cut_or_no_text_are_counted_in_tars(tmp_path: Path) -> None:
    source = tmp_path / "wds"
    source.mkdir()
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(whole, "PNG")
    with tarfile.open(source / "0.tar", "w") as tar:
        add(tar, "a.jpg", image(1))
        add(tar, "a.txt", "läuft".encode("utf-16"))
        add(tar, "b.jpg", image(2))
        add(tar, "b.txt", "läuft".encode("latin-1"))
        add(tar, "c.jpg", image(3))
        add(tar, "c.json", b'{"caption": "half a pair: \\ud800"}')
        add(tar, "d.png", whole.getvalue()[:-1000])
        add(tar, "d.txt", b"cut")
        add(tar, "e.jpg", image(4))
        add(tar, "e.txt", b" \n")
    made = import_tars(str(source), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts == {"images": 1, "caption_not_utf8": 2, "truncated": 1, "no_caption": 1}
    assert [row["text"] for row in pairs(tmp_path / "pool")] == ["läuft"]


def test_img2dataset_files_keep_what_their_json_says(tmp_path: Path) -> None:
    source = tmp_path / "files" / "00000"
    source.mkdir(parents=True)
    (source / "000000000.jpg").write_bytes(image(1))
    (source / "000000000.txt").write_text("first")
    known = {"uid": "ab" * 16, "url": "https://example.org/x", "original_width": 900}
    (source / "000000000.json").write_bytes(orjson.dumps(known))
    (source.parent / "00000.parquet").write_bytes(b"img2dataset's own table")
    made = import_tars(str(source.parent), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts == {"images": 1}
    [row] = pairs(tmp_path / "pool")
    assert (row["uid"], row["url"], row["original_width"]) == tuple(known.values())


def test_links_to_nothing_and_pipes_are_counted_and_not_waited_for(tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.txt").write_text(name)
    (source / "a.jpg").write_bytes(image(1))
    (source / "b.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(source / "c.jpg")
    made = import_folder(str(source), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts == {"images": 1, "no_file": 2}


def test_what_img2dataset_left_behind_is_counted(tmp_path: Path) -> None:
    """Shards without their tar, of unfinished jobs, by two names, with fewer samples than counted,
    and samples with two images."""
    source = tmp_path / "i2d"

    def shard(number: int, name: str, *more: tuple[str, bytes]) -> None:
        parts = [(f"{number}.jpg", image(number)), (f"{number}.txt", f"text {number}".encode())]
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(source / name, "w") as tar:
            for member, data in (*parts, *more):
                add(tar, member, data)

    shard(1, "00000.tar", ("1.png", image(1, "PNG")))
    shard(2, "00001.tar")
    shard(3, "_tmp/00009.tar")
    (source / "00000.parquet").write_bytes(b"")
    (source / "00000_stats.json").write_bytes(orjson.dumps({"count": 9, "successes": 4}))
    (source / "00001_stats.json").write_bytes(b"cut")
    (source / "00002.parquet").write_bytes(b"")
    (source / "00002_stats.json").write_bytes(orjson.dumps({"successes": 0}))
    (source / "00003.tar").symlink_to("00001.tar")
    (source / "00004.tar").symlink_to("nowhere.tar")
    made = import_tars(str(source), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts == {
        "images": 2,
        "second_image": 1,
        "fewer_than_img2dataset_counted": 3,
        "shard_without_its_tar": 1,
        "of_an_unfinished_job": 1,
        "link_to_another_tar": 1,
        "no_file": 1,
    }
    assert sorted(row["text"] for row in pairs(tmp_path / "pool")) == ["text 1", "text 2"]


def test_packed_tars_and_other_files_are_named(tmp_path: Path, folder: Path) -> None:
    made = import_folder(str(folder), out=str(tmp_path / "pool"), map_tasks=map_here)
    assert made.counts["other_files"] == 1  # notes.md
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "0.tar.gz").write_bytes(b"")
    with pytest.raises(PoolError, match=r"0\.tar\.gz is a compressed tar; unpack it"):
        import_tars(str(packed), out=str(tmp_path / "o"), map_tasks=map_here)


def test_what_gives_no_pool_is_refused_by_what_it_has(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PoolError, match="there are no images below"):
        import_folder(str(empty), out=str(tmp_path / "o"), map_tasks=map_here)
    with pytest.raises(PoolError, match=r"no \.tar files"):
        import_tars(str(empty), out=str(tmp_path / "o"), map_tasks=map_here)
    (empty / "a.jpg").write_bytes(image(1))
    with pytest.raises(PoolError, match=r"none of the 1 images .* has a caption"):
        import_folder(str(empty), out=str(tmp_path / "o"), map_tasks=map_here)
    (empty / "t.csv").write_text("x,y\n1,2\n")
    for name, message in (
        ("t.csv", "no column of image names; it has x, y"),
        ("u.csv", "no table"),
    ):
        with pytest.raises(PoolError, match=message):
            import_folder(
                str(empty), out=str(tmp_path / "o"), map_tasks=map_here, captions=f"{empty}/{name}"
            )
    (empty / "a.txt").write_text("a")
    (empty / "a.jpg").write_bytes(b"broken")
    with pytest.raises(PoolError, match=r"no image of .* can be used \(.*not_a_picture 1"):
        import_folder(str(empty), out=str(tmp_path / "o"), map_tasks=map_here)
    for out in (folder, folder / "pool"):
        with pytest.raises(PoolError, match=r"is inside .*; choose a folder next to it"):
            import_folder(str(folder), out=str(out), map_tasks=map_here)
    with pytest.raises(PoolError, match="is not empty"):
        import_folder(str(folder), out=str(empty), map_tasks=map_here)


def test_a_pool_that_is_there_is_made_again_from_the_same_images_alone(
    folder: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "pool")
    first = import_folder(str(folder), out=out, map_tasks=map_here)
    before = {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.tar")}
    assert import_folder(str(folder), out=out, map_tasks=map_here) == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "pool").rglob("*.tar")} == before
    (folder / "a.txt").write_text("another caption")
    with pytest.raises(PoolError, match="the pool of other images"):
        import_folder(str(folder), out=out, map_tasks=map_here)
    assert np.array_equal(sorted(before), ["00000000.tar"])
