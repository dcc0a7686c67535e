"""`--overwrite`: exactly the run's own files go."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.engine.run_folder import Result, RunFailed
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline


def curate(folder: Path, min_words: int, *, overwrite: bool = False) -> Result:
    pool = folder / "pool"
    pool.mkdir(exist_ok=True)
    rows = [{"text": "one"}, {"text": "one two"}, {"text": "one two"}]
    (pool / "a.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    steps = [{"word_count": {"min_words": min_words}}, "exact_dedup"]
    return run(
        Pipeline.from_steps(steps),
        open_pool(str(pool)),
        out=str(folder / "out"),
        overwrite=overwrite,
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_another_run_takes_the_folder_of_the_first(tmp_path: Path) -> None:
    curate(tmp_path, 1)
    with pytest.raises(RunFailed, match="--overwrite"):
        curate(tmp_path, 2)
    result = curate(tmp_path, 2, overwrite=True)
    assert result.record.counts["rows_out"] == 1
    named = {file.name for file in result.record.outputs}
    assert {name for name in files(tmp_path / "out") if name.startswith("data/")} == named


def test_the_same_run_is_done_again(tmp_path: Path) -> None:
    first = curate(tmp_path, 1)
    again = curate(tmp_path, 1, overwrite=True)
    assert not again.skipped
    assert again.record.id == first.record.id


def test_files_of_others_stay(tmp_path: Path) -> None:
    curate(tmp_path, 1)
    mine = {"notes.txt": b"mine", "data/my table.parquet": b"x", "done/notes.txt": b"y"}
    mine["data/00000.parquet"] = b"no attempt has such a name"
    for name, data in mine.items():
        (tmp_path / "out" / name).write_bytes(data)
    curate(tmp_path, 2, overwrite=True)
    there = files(tmp_path / "out")
    assert {name: there[name] for name in mine} == mine


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFailed, match=r"thesis\.tex among them.* and no run"):
        curate(tmp_path, 1, overwrite=True)
    assert files(tmp_path / "out") == {"thesis.tex": b"years of work"}


def test_an_empty_or_missing_folder_is_no_error(tmp_path: Path) -> None:
    assert curate(tmp_path, 1, overwrite=True).record.counts["rows_out"] == 2


def test_a_run_at_work_is_refused(tmp_path: Path) -> None:
    curate(tmp_path, 1)
    progress = tmp_path / "out" / "progress.json"
    state = orjson.loads(progress.read_bytes())
    progress.write_bytes(
        orjson.dumps({**state, "state": "running", "updated": "2999-01-01T00:00:00Z"})
    )
    before = files(tmp_path / "out")
    with pytest.raises(RunFailed, match="is in use by"):
        curate(tmp_path, 2, overwrite=True)
    assert files(tmp_path / "out") == before


def test_nothing_is_removed_for_a_pipeline_that_cannot_run(tmp_path: Path) -> None:
    curate(tmp_path, 1)
    before = files(tmp_path / "out")
    pool = open_pool(str(tmp_path / "pool"))
    with pytest.raises(PipelineError, match="no_such"):
        run(
            Pipeline.from_steps([{"select": {"by": "no_such", "fraction": 0.5}}]),
            pool,
            out=str(tmp_path / "out"),
            overwrite=True,
        )
    assert files(tmp_path / "out") == before
