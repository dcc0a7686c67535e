"""A list of uids is .npy or raw records; what is something else is refused by what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from leaderboard.submissions.uids import open_uids
from pipelines.errors import SubsetError
from pipelines.formats.uid_lists import load_subset, open_records
from pipelines.kernels.uids import SUBSET

IDS = np.array([(1, 2), (3, 4)], SUBSET)


def test_npy_and_raw_hold_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IDS)
    IDS.tofile(tmp_path / "a.bin")
    IDS.tofile(tmp_path / "a.memmap")
    IDS.tofile(tmp_path / "list")
    for name in ("a.npy", "a.bin", "a.memmap", "list"):
        assert open_records(str(tmp_path / name)).tolist() == IDS.tolist()


def lines(number: int) -> bytes:
    return b"".join(b"%032x\n" % n for n in range(number))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("uids.txt", lines(16), "not a list of uids, but .txt"),
        ("uids", lines(16), "but text"),
        ("uids.bin", lines(16), "but text"),
        ("uids.bin", b"uid\r\n" + b"a" * 43, "but text"),
        ("uids.csv", bytes(32), "but .csv"),
        ("uids.parquet", bytes(32), "but .parquet"),
        ("uids.NPZ", bytes(32), "but .npz"),
        ("uids.bin", b"", "is empty"),
        ("uids.npy", b"", "not a list of uids"),
        ("uids.bin", b"\x01" * 17, "17 bytes, not a multiple of 16"),
    ],
)
def test_another_file_is_refused_by_what_it_is(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    for read, error in ((load_subset, SubsetError), (open_uids, ValueError)):
        with pytest.raises(error, match=message):
            read(str(file))


def test_an_archive_named_npy_and_other_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=IDS)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="an archive of arrays"):
        open_records(str(tmp_path / "a.npy"))
    big = IDS.astype([("f0", ">u8"), ("f1", ">u8")])
    for number, array in enumerate((np.zeros((2, 2)), IDS.reshape(1, 2), big)):
        np.save(tmp_path / f"{number}.npy", array)
        with pytest.raises(ValueError, match="expected records of u8,u8"):
            open_records(str(tmp_path / f"{number}.npy"))
    with pytest.raises(FileNotFoundError):
        open_records(str(tmp_path / "none.npy"))


@pytest.mark.parametrize(
    ("begin", "kind"),
    [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\x03\x04", "zip")],
)
def test_a_compressed_list_is_refused_though_its_size_fits(
    tmp_path: Path, begin: bytes, kind: str
) -> None:
    (tmp_path / "ids.bin").write_bytes(begin + bytes(64 - len(begin)))
    with pytest.raises(SubsetError, match=f"a {kind} file"):
        load_subset(str(tmp_path / "ids.bin"))
