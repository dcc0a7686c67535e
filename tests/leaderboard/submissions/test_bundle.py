"""What the zip itself may be: names, sizes, kinds of entries; nothing is unpacked before."""

from __future__ import annotations

import pickle
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from leaderboard.submissions.bundle import Limits, look_at, open_bundle, write_zip
from leaderboard.submissions.faults import BundleError
from leaderboard.submissions.validate import check_bundle
from tests.leaderboard.made_up import make_folder, make_zip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("bundle"))


def zip_with(path: Path, entries: dict[str, bytes], **changed: object) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for field, value in changed.items():
                setattr(entry, field, value)
            archive.writestr(entry, data)
    return path


def said(path: Path, **limits: int) -> str:
    with pytest.raises(BundleError) as error:
        look_at(path, limits=Limits(**limits))
    return str(error.value)


def test_equal_content_is_an_equal_zip(folder: Path, tmp_path: Path) -> None:
    first, second = (write_zip(folder, tmp_path / name) for name in ("one.zip", "two.zip"))
    assert first.read_bytes() == second.read_bytes()
    assert check_bundle(open_bundle(first)).faults == ()
    assert open_bundle(first).record == open_bundle(folder).record


@pytest.mark.parametrize(
    "name",
    [
        "../submission.json",
        "/etc/passwd",
        "questions/1/../../x/0.parquet",
        "questions/1/a/b/0.parquet",
        "questions\\1\\a\\0.parquet",
        "checkpoint.pt",
        "model.pkl",
        "submission.json/",
        "SUBMISSION.JSON",
        "questions/1/a/0.parquet\n",
    ],
)
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", {name: b"x"})
    assert "name of an entry" in said(path)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("submission.json", "{}")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("submission.json", "[]")
    assert "submission.json: found two files of this name" in said(tmp_path / "x.zip")


def test_links_are_refused(tmp_path: Path) -> None:
    mode = (stat.S_IFLNK | 0o777) << 16
    path = zip_with(tmp_path / "x.zip", {"submission.json": b"/etc/passwd"}, external_attr=mode)
    assert "file type" in said(path)


def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_with(tmp_path / "x.zip", {"questions/1/a/0.parquet": b"\0" * (64 << 20)})
    assert path.stat().st_size < 100_000

    def unpacks(*_: object, **__: object) -> None:
        raise AssertionError("a member was opened")

    monkeypatch.setattr(zipfile.ZipFile, "open", unpacks)
    assert "at most 200 times" in said(path)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked_whole(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", {"submission.json": b" " * (32 << 20)})
    data = bytearray(path.read_bytes())
    position = data.rindex(b"PK\x01\x02")
    data[position + 24 : position + 28] = struct.pack("<L", 1000)
    local = data.index(b"PK\x03\x04")
    data[local + 22 : local + 26] = struct.pack("<L", 1000)
    path.write_bytes(data)
    with pytest.raises(BundleError):
        open_bundle(path)


def test_entries_that_share_bytes_are_refused(tmp_path: Path) -> None:
    names = [f"questions/1/a/{n}.parquet" for n in range(5)]
    path = zip_with(tmp_path / "x.zip", dict.fromkeys(names, b"y" * 200000))
    data = bytearray(path.read_bytes())
    position = data.index(b"PK\x01\x02")
    while position >= 0:
        data[position + 42 : position + 46] = struct.pack("<L", 0)  # all at the first one's place
        position = data.find(b"PK\x01\x02", position + 4)
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"another entry has too|Overlapped"):
        look_at(path)


def test_too_many_too_large_and_commented_zips_are_refused(tmp_path: Path) -> None:
    names = {f"questions/1/a/{n}.parquet": b"x" for n in range(50)}
    path = zip_with(tmp_path / "x.zip", names)
    assert "entries: found 50, expected at most 20" in said(path, members=20)
    assert "directory: found" in said(path, directory_bytes=100)
    assert "size: found" in said(path, bundle_bytes=1000)
    assert "unpacked size: found 50" in said(path, unpacked_bytes=10)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"hello"
    assert "found another kind of file, expected a zip without a comment" in said(path)


def test_bytes_before_the_zip_are_refused(folder: Path, tmp_path: Path) -> None:
    path = write_zip(folder, tmp_path / "x.zip")
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert "bytes outside the zip" in said(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip" * 100, b"\x80\x04."])
def test_what_is_no_zip_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    assert "found another kind of file" in said(tmp_path / "x.zip")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def traps(path: Path) -> dict[str, bytes]:
    import io

    import numpy as np

    array = io.BytesIO()
    np.save(array, np.array([Trap(path)], dtype=object), allow_pickle=True)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as inner:  # what torch.save writes
        inner.writestr("archive/data.pkl", pickle.dumps(Trap(path)))
    plain = pickle.dumps(Trap(path))
    return {
        "pickle in a log": plain,
        "old protocol": pickle.dumps(Trap(path), protocol=0),
        "torch checkpoint": archive.getvalue(),
        "object array": array.getvalue(),
        "pickle behind parquet's mark": b"PAR1" + plain + b"PAR1",
    }


@pytest.mark.parametrize("name", ["questions/124/heldout_ending/000000.parquet", "submission.json"])
@pytest.mark.parametrize("trap", list(traps(Path("x"))))
def test_pickles_are_never_loaded(folder: Path, tmp_path: Path, name: str, trap: str) -> None:
    """Ten of them: five kinds, in a log and as the record."""
    import hashlib
    import shutil

    import orjson

    sprung = tmp_path / "sprung"
    data = traps(sprung)[trap]
    other = tmp_path / "copy"
    shutil.copytree(folder, other)
    (other / name).write_bytes(data)
    manifest = orjson.loads((other / "bundle.json").read_bytes())
    for file in manifest["files"]:
        if file["name"] == name:
            file |= {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    (other / "bundle.json").write_bytes(orjson.dumps(manifest))
    path = write_zip(other, tmp_path / "x.zip")
    try:
        faults = check_bundle(open_bundle(path)).faults
    except BundleError as error:
        faults = error.faults
    assert faults
    assert not sprung.exists()


def test_a_folder_and_its_zip_check_alike(tmp_path: Path) -> None:
    path = make_zip(tmp_path, method="alike", seeds=(124, 125))
    from_zip, from_folder = (
        check_bundle(open_bundle(item)) for item in (path, path.with_suffix(""))
    )
    assert from_zip.measured is not None
    assert from_folder.measured is not None
    assert from_zip.measured.row == from_folder.measured.row
