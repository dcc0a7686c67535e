"""What a dataset of images must hold: templates with a place, groups that are numbers, captions."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evals.images.image_tasks import CLASSES, TEMPLATES, ImageData, read_images
from pipelines.errors import DataError
from tests.evals.helpers import make_task


def write(folder: Path, samples: list[dict[str, bytes]], **files: bytes) -> None:
    (folder / "t" / "test").mkdir(parents=True, exist_ok=True)
    names = {"classes": CLASSES, "templates": TEMPLATES, "shards": "test/nshards.txt"}
    contents = {"classes": b"cat\ndog\n", "templates": b"a {c}\n", "shards": b"1\n"} | files
    for name, data in contents.items():
        (folder / "t" / names[name]).write_bytes(data)
    with tarfile.open(folder / "t" / "test" / "0.tar", "w") as tar:
        for number, sample in enumerate(samples):
            for extension, data in sample.items():
                info = tarfile.TarInfo(f"{number}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read(folder: Path, kind: str = "image_classification", **fields: Any) -> ImageData:
    task = make_task(kind=kind, file="t", metric="acc1", **fields)
    return read_images(task, str(folder))


def npy(*values: float, dtype: str = "<f8") -> bytes:
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


SAMPLE = {"jpg": b"image", "cls": b"1"}


def test_marks_and_blank_lines_of_editors_are_no_names(tmp_path: Path) -> None:
    write(tmp_path, [SAMPLE], classes=b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", templates=b"a {c}\n\n")
    data = read(tmp_path)
    assert (data.classes, data.templates) == ({"": ("cat", "dog")}, {"": ("a {c}",)})


@pytest.mark.parametrize("template", [b"a photo of a {}.", b"a photo", b"a {C}", b"a {c}\na cat"])
def test_a_template_without_a_place_for_the_class_is_refused(
    tmp_path: Path, template: bytes
) -> None:
    write(tmp_path, [SAMPLE], templates=template)
    with pytest.raises(DataError, match=r"line \d, .*, has no \{c\} where the class goes"):
        read(tmp_path)


def test_a_blank_line_in_the_middle_is_still_a_fault(tmp_path: Path) -> None:
    write(tmp_path, [SAMPLE], classes=b"cat\n\ndog\n")
    with pytest.raises(DataError, match="line 2 is empty"):
        read(tmp_path)


@pytest.mark.parametrize("number", ["\u00b2", "one", "-1", "1\n1"])
def test_the_number_of_shards_is_a_number(tmp_path: Path, number: str) -> None:
    write(tmp_path, [SAMPLE], shards=number.encode())
    with pytest.raises(DataError, match=r"nshards\.txt: expected one number"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "region is nan, expected a whole number"),
        (float("inf"), "region is inf, expected a whole number"),
        (1.9, "region is 1.9, expected a whole number"),
        (-1.0, "region is -1.0, expected a group from 0"),
        (2.0**40, "region is 1099511627776.0, expected a group from 0"),
    ],
)
def test_a_group_is_a_whole_number_that_can_be_counted(
    tmp_path: Path, value: float, message: str
) -> None:
    fields = {"metadata": ["region", "year"], "group_by": ["region"]}
    write(tmp_path, [SAMPLE | {"npy": npy(2, -1)}, SAMPLE | {"npy": npy(value, 0)}])
    with pytest.raises(DataError, match=f"sample 1: {message}"):
        read(tmp_path, **fields)
    write(tmp_path / "good", [SAMPLE | {"npy": npy(2, -1)}])
    assert read(tmp_path / "good", **fields).metadata.tolist() == [[2, -1]]


def test_captions_of_a_file_end_at_line_feeds_alone(tmp_path: Path) -> None:
    text = "one\u2028still one\r\ntwo\x85\x0c still two\n\nthree".encode()
    write(tmp_path, [{"jpg": b"i", "txt": text}])
    [captions] = read(tmp_path, "image_retrieval").captions
    assert captions == ("one\u2028still one", "two\x85\x0c still two", "three")


def test_listed_captions_are_taken_as_they_are(tmp_path: Path) -> None:
    listed = ["one", "two\nlines", "", "three\u2028", "four\r", "five\x0c"]
    (tmp_path / "t").mkdir()
    table = pa.table({"image": [{"bytes": b"i"}, {"bytes": b"j"}], "caption": [listed, ["x"]]})
    pq.write_table(table, tmp_path / "t" / "a.parquet")
    assert read(tmp_path, "image_retrieval").captions == (tuple(listed), ("x",))


@pytest.mark.parametrize("captions", [[None], ["a", None], None])
def test_a_caption_that_is_none_is_named(tmp_path: Path, captions: Any) -> None:
    (tmp_path / "t").mkdir()
    kind = pa.list_(pa.string())
    table = pa.table({"image": [{"bytes": b"i"}], "caption": pa.array([captions], kind)})
    pq.write_table(table, tmp_path / "t" / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 0: the captions are"):
        read(tmp_path, "image_retrieval")
