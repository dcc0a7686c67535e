from __future__ import annotations

import bz2
import io
import tarfile

import pytest

from evals.kinds import read_data
from evals.tasks import load_task
from evals.text.convert import convert
from pipelines.errors import DataError

SIX = "A man sits on a roof. he\n3\nskis.\nrips.\nholds.\nstarts.\n"


def test_hellaswag_is_read_from_six_lines_an_item(tmp_path):
    source = tmp_path / "h.txt.bz2"
    source.write_bytes(bz2.compress((SIX * 2).encode()))
    convert(source, tmp_path / "data")
    task = load_task("hellaswag").model_copy(update={"rows": 2})
    data = read_data(task, tmp_path / "data")
    assert not data.verified
    (item, _) = data.items
    assert item.context == "A man sits on a roof. he"
    assert item.options == ("skis.", "rips.", "holds.", "starts.")
    assert item.gold == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\nb\n", "not a multiple of 6"), (SIX.replace("3", "4"), "line 2: expected an index")],
)
def test_broken_hellaswag_is_named(tmp_path, text, message):
    (tmp_path / "h.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "h.txt", tmp_path / "data")


def archive(path, name, text):
    with tarfile.open(path, "w:xz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_mmlu_is_read_from_its_tables(tmp_path):
    table = 'question,choice0,choice1,choice2,choice3,answer\n"Which, then?",w,x,y,z,2\n'
    source = archive(tmp_path / "m.tar.xz", "mmlu/test/anatomy_test.csv", table)
    convert(source, tmp_path / "data")
    task = load_task("mmlu_zeroshot").model_copy(update={"rows": 1})
    (item,) = read_data(task, tmp_path / "data").items
    assert item.context == "Which, then?\nA. w\nB. x\nC. y\nD. z"
    assert (item.options, item.gold, item.category) == (("A", "B", "C", "D"), 2, "anatomy")


def test_a_broken_mmlu_row_is_named(tmp_path):
    table = "question,choice0,choice1,choice2,choice3,answer\nWhich?,w,x,y,z,E\n"
    source = archive(tmp_path / "m.tar.xz", "mmlu/test/anatomy_test.csv", table)
    with pytest.raises(DataError, match=r"anatomy_test\.csv, row 0 is not a question"):
        convert(source, tmp_path / "data")


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match="expected HellaSwag"):
        convert(tmp_path / "x.json", tmp_path)


@pytest.mark.parity
def test_the_real_sets_have_as_many_rows_as_the_tasks_say(data, tmp_path):
    for name, task in (
        ("hellaswag_val_full.txt.bz2", "hellaswag"),
        ("mmlu_dev_test.tar.xz", "mmlu_fewshot"),
    ):
        source = data / "eval" / name
        if not source.is_file():
            pytest.skip(f"no file {source}")
        convert(source, tmp_path)
        assert not read_data(load_task(task), tmp_path).verified
