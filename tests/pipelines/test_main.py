"""The command line as a newcomer types it: results, messages, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).parents[2]

MINE = '''
import numpy as np
from pydantic import Field
from pipelines.operators import Filter, because


class FewCommas(Filter):
    """Reject documents that hardly use commas: lists and tables rather than prose."""

    min_commas: float = Field(5.0, ge=0, description="commas per 1,000 characters, at least")
    reasons = ("too_few_commas",)

    def reject(self, batch):
        rate = [1000 * text.count(",") / max(len(text), 1) for text in batch.text.to_pylist()]
        return because(np.array(rate) < self.min_commas, "too_few_commas")
'''


def pipelines(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, arguments)],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    rows = [{"text": "one, two, three, four words here"}, {"text": "no comma in this one"}]
    (tmp_path / "pool" / "0.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    (tmp_path / "my_filters.py").write_text(MINE)
    (tmp_path / "mine.yaml").write_text("name: mine\nsteps:\n  - my_filters.py:FewCommas\n")
    return tmp_path


def test_a_participant_s_filter_runs_and_its_funnel_is_printed(folder: Path) -> None:
    done = pipelines("run", "mine.yaml", "--input", "pool", "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "too_few_commas 1" in done.stdout
    assert "1 of 2 rows" in done.stdout
    again = pipelines("run", "mine.yaml", "--input", "pool", "--out", "out", cwd=folder)
    assert "already done" in again.stderr
    record = orjson.loads((folder / "out" / "record.json").read_bytes())
    assert record["work"]["modules"][0]["text"] == MINE


def test_status_and_json_are_for_machines_too(folder: Path) -> None:
    run = pipelines("run", "mine.yaml", "--input", "pool", "--out", "out", "--json", cwd=folder)
    record = orjson.loads(run.stdout)["record"]
    state = orjson.loads(pipelines("status", "out", "--json", cwd=folder).stdout)
    assert (state["state"], state["record_id"]) == ("done", record["id"])
    assert state["passes"] == {"p0": 1}


def test_why_tells_what_became_of_a_document(folder: Path) -> None:
    rows = [
        {"text": "one, two, three, four words here", "url": "http://x/kept"},
        {"text": "no comma in this one", "url": "http://x/gone"},
    ]
    (folder / "pool" / "0.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    pipelines("run", "mine.yaml", "--input", "pool", "--out", "out", cwd=folder)
    removed = orjson.loads(pipelines("why", "out", "http://x/gone", "--json", cwd=folder).stdout)
    assert [(f["fate"], f["step"], f["reason"]) for f in removed] == [
        ("rejected", 1, "too_few_commas")
    ]
    kept = pipelines("why", "out", "0:0", cwd=folder)
    assert "kept" in kept.stdout
    nothing = pipelines("why", "out", "http://x/none", cwd=folder)
    assert (nothing.returncode, "no row of out has the URL" in nothing.stderr) == (3, True)


def test_clean_removes_only_what_no_commit_names(folder: Path) -> None:
    pipelines("run", "mine.yaml", "--input", "pool", "--out", "out", cwd=folder)
    before = sorted(path.name for path in (folder / "out" / "data").iterdir())
    (folder / "out" / "data" / "00000.deadbeef.parquet").write_bytes(b"left")
    done = pipelines("clean", "out", cwd=folder)
    assert "removed 1 files, 4 bytes" in done.stdout
    assert sorted(path.name for path in (folder / "out" / "data").iterdir()) == before
    refused = pipelines("clean", "pool", cwd=folder)
    assert refused.returncode == 1
    assert (folder / "pool" / "0.jsonl").exists()


def test_a_participant_s_file_is_documented_and_checked(folder: Path) -> None:
    shown = pipelines("ops", "--from", "my_filters.py", cwd=folder)
    assert "commas per 1,000 characters, at least" in shown.stdout
    checked = pipelines("check", "my_filters.py", cwd=folder)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "FewCommas keeps all promises" in checked.stdout


def test_check_names_the_broken_promise(folder: Path) -> None:
    (folder / "bad.py").write_text(MINE.replace('"too_few_commas")\n', '"other")\n'))
    checked = pipelines("check", "bad.py", cwd=folder)
    assert checked.returncode == 3
    assert "gave the reasons ['other']" in checked.stdout


BAD_CONFIGS = {
    "steps: [word_cuont]": "unknown operator 'word_cuont'; did you mean 'word_count'?",
    "steps: [{threshold: {by: s, min_score: 2, max_score: 1}}]": "(2.0) is above max_score (1.0)",
    "steps: [{word_count: {min_wrds: 3}}]": "unknown parameter 'min_wrds'; did you mean",
    "steps: [{word_count: {min_words: -3}}]": "min_words = -3: Input should be greater",
    "steps: [{select: {by: url}}]": "give exactly one of fraction and total",
    "stepps: [word_count]": "unknown key 'stepps'; did you mean 'steps'?",
    "steps: [{word_count: 5}]": "step 1: expected an operator's name",
    "steps: [missing.py:Filter]": "there is no file missing.py",
    "steps: [my_filters.py:FewComas]": "defines no operator class 'FewComas'; did you mean",
    "a: [b": "is not YAML",
    "- word_count": "expected a mapping with the keys name and steps",
}


@pytest.mark.parametrize("text", BAD_CONFIGS)
def test_a_wrong_pipeline_is_a_usage_error_that_says_what_to_do(folder: Path, text: str) -> None:
    (folder / "bad.yaml").write_text(text)
    done = pipelines("explain", "bad.yaml", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert BAD_CONFIGS[text] in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_plan_says_where_each_operator_comes_from(folder: Path) -> None:
    (folder / "two.yaml").write_text("steps: [word_count, my_filters.py:FewCommas]")
    done = pipelines("explain", "two.yaml", cwd=folder)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["1", "word_count", "filter", "pipelines.text.heuristics"] in [row[:4] for row in rows]
    assert ["my_filters.py:FewCommas", "filter", "my_filters.py"] in [row[1:4] for row in rows]
    as_json = orjson.loads(pipelines("explain", "two.yaml", "--json", cwd=folder).stdout)
    [steps] = [current["steps"] for current in as_json["passes"]]
    assert [step["source"] for step in steps] == ["pipelines.text.heuristics", "my_filters.py"]


def test_a_broken_line_is_bad_data_and_leaves_no_record(folder: Path) -> None:
    (folder / "pool" / "1.jsonl").write_bytes(b'{"text": "ok, ok, ok, ok"}\n{"text": \n')
    run = ("run", "mine.yaml", "--input", "pool", "--out", "out")
    stopped = pipelines(*run, cwd=folder)
    assert stopped.returncode == 3
    assert "1.jsonl, record 2: not JSON" in stopped.stderr
    assert not (folder / "out" / "record.json").exists()
    aside = pipelines(*run[:-1], "out2", "--quarantine", cwd=folder)
    assert aside.returncode == 0, aside.stderr
    assert "1 rows were set aside: see out2/quarantine" in aside.stderr


def test_other_mistakes_have_one_line_each(folder: Path) -> None:
    missing = pipelines("run", "none.yaml", "--input", "pool", "--out", "o", cwd=folder)
    assert (missing.returncode, missing.stderr) == (
        2,
        "error: there is no pipeline file none.yaml\n",
    )
    empty = pipelines("run", "mine.yaml", "--input", "nowhere", "--out", "o", cwd=folder)
    assert empty.returncode == 3
    assert "there is no folder" in empty.stderr
    no_run = pipelines("status", "pool", cwd=folder)
    assert (no_run.returncode, "holds no run" in no_run.stderr) == (1, True)
    (folder / "lid.yaml").write_text("steps: [language_id]")
    asset = pipelines("run", "lid.yaml", "--input", "pool", "--out", "o", cwd=folder)
    assert asset.returncode == 2
    assert "get it with: pipelines assets fetch lid.176.ftz" in asset.stderr


def test_the_pages_of_operators_and_commands_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_operator_that_changes_the_working_folder_moves_no_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines.__main__ import app
    from pipelines.console import main

    (folder / "elsewhere").mkdir()
    moving = MINE.replace("import numpy as np", "import os\nimport numpy as np").replace(
        "        rate =", f"        os.chdir({str(folder / 'elsewhere')!r})\n        rate ="
    )
    (folder / "my_filters.py").write_text(moving)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(app, ["run", "mine.yaml", "--input", "pool", "--out", "out"])
    assert ended.value.code in (0, None), capsys.readouterr().err
    assert (folder / "out" / "report.html").exists()
    assert list((folder / "elsewhere").iterdir()) == []
