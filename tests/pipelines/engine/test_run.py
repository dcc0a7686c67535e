"""Whole runs: the same bytes whoever runs them, nothing lost, nothing half-written."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine.apply import apply
from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result, RunFailed
from pipelines.errors import PipelineError
from pipelines.execution.executors import OnResult, ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from pipelines.storage.commits import all_done, unreferenced
from pipelines.storage.local import LocalStore

STEPS: list[Any] = [
    {"line_words": {"min_words": 2}},
    {"word_count": {"min_words": 4}},
    {"exact_dedup": {"normalize": "whitespace_lowercase"}},
    {"test_operators.py:Halves": {}},
    {"test_operators.py:Length": {}},
    {"select": {"by": "length", "fraction": 0.5, "of": "num_words"}},
    {"test_operators.py:Seen": {"groups": 2}},
    {"hash_sample": {"fraction": 0.9}},
]

OPERATORS = '''
import numpy as np
import pyarrow as pa
from pydantic import Field
from pipelines.operators import Filter, Fold, Modifier, Splitter, because, each
from pipelines.schema import STRING, TEXT


class Halves(Splitter):
    """Cut every document into two halves of its words."""

    def split(self, batch):
        parts, parents = [], []
        for number, text in enumerate(batch.text.to_pylist()):
            words = text.split()
            for part in (words[: len(words) // 2], words[len(words) // 2 :]):
                if part:
                    parts.append(" ".join(part))
                    parents.append(number)
        return pa.table({TEXT: pa.array(parts, STRING)}), np.array(parents, dtype=np.int64)


class Length(Modifier):
    """Add the number of characters and of words."""

    def writes(self):
        return {"length": pa.int64(), "num_words": pa.int64()}

    def modify(self, batch):
        return {
            "length": each(batch.text, len, type=pa.int64()),
            "num_words": each(batch.text, lambda text: len(text.split()), type=pa.int64()),
        }


class Seen(Fold):
    """Drop documents whose first word was seen before in the group of shards."""

    reasons = ("first_word_seen",)

    def writes(self):
        return {TEXT: STRING}

    def start(self):
        return set()

    def step(self, state, batch):
        kept = []
        for text in batch.text.to_pylist():
            word = text.split()[0]
            kept.append(None if word in state else text)
            state.add(word)
        return state, {TEXT: pa.array(kept, STRING)}
'''


def write_pool(folder: Path, *, shards: int = 5, rows: int = 60) -> Path:
    """Documents with duplicates across shards, empty ones, short ones."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        lines = []
        for row in range(rows):
            number = (shard * 7 + row * 3) % 97
            text = f"word{number} says that number {number} is\nshort\nof the kind {number % 5}"
            lines.append(
                {"text": text if row % 10 else "tiny text", "url": f"http://x/{shard}/{row}"}
            )
        data = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        (folder / f"{shard:03d}.jsonl").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(tmp_path_factory.mktemp("pool") / "in")


@pytest.fixture(scope="module")
def steps_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    (folder / "test_operators.py").write_text(OPERATORS)
    return folder


@pytest.fixture(scope="module")
def pipeline(steps_folder: Path) -> Pipeline:
    return Pipeline.from_steps(STEPS, name="everything", folder=steps_folder)


def curate(pipeline: Pipeline, pool: Path, out: Path, **options: Any) -> Result:
    return run(pipeline, open_pool(str(pool)), out=str(out), **options)


def outputs(result: Result) -> list[str]:
    return [file.sha256 for file in result.record.outputs]


@pytest.fixture(scope="module")
def undisturbed(
    pipeline: Pipeline, pool: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("run") / "out"
    return curate(pipeline, pool, out), out


def test_every_row_is_accounted_for(undisturbed: tuple[Result, Path]) -> None:
    result, _ = undisturbed
    result.summary.stats.check()
    by_name = {step.name: step for step in result.summary.stats.steps}
    assert by_name["read"].rows_in == 300
    assert by_name["word_count"].reasons == {"too_few_words": 30}
    assert by_name["exact_dedup"].reasons["duplicate"] > 100
    assert by_name["test_operators.py:Halves"].split > 0
    assert 0 < result.summary.stats.rows_out < by_name["select"].rows_in


def test_only_the_record_s_files_and_its_reports_are_left(
    undisturbed: tuple[Result, Path],
) -> None:
    result, out = undisturbed
    store = LocalStore(out)
    data = sorted(entry.name for entry in store.list("data/"))
    assert data == sorted(file.name for file in result.record.outputs)
    assert list(store.list("work/")) == []
    assert unreferenced(store, folders=("data", "rejected", "quarantine")) == []


def test_several_processes_write_the_same_bytes_and_statistics(
    undisturbed: tuple[Result, Path], pipeline: Pipeline, pool: Path, tmp_path: Path
) -> None:
    result, _ = undisturbed
    other = curate(pipeline, pool, tmp_path / "out", map_tasks=ProcessMap(2))
    assert outputs(other) == outputs(result)
    assert other.summary.stats == result.summary.stats
    assert other.record.id == result.record.id


def test_a_second_run_does_nothing(
    undisturbed: tuple[Result, Path], pipeline: Pipeline, pool: Path
) -> None:
    result, out = undisturbed

    def forbidden(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("a finished run has nothing to do")

    again = curate(pipeline, pool, out, map_tasks=forbidden)
    assert again.skipped
    assert again.record == result.record


class StopAfter:
    """An executor that is interrupted after a number of results."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        on_result: OnResult | None = None,
    ) -> list[Any]:
        results = []
        for index, item in enumerate(items):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            results.append(function(item))
            if on_result:
                on_result(index, results[-1])
        return results


@pytest.mark.parametrize("after", [0, 1, 4, 7, 11, 16, 21, 26])
def test_an_interrupted_run_goes_on_and_ends_alike(
    undisturbed: tuple[Result, Path], pipeline: Pipeline, pool: Path, tmp_path: Path, after: int
) -> None:
    result, _ = undisturbed
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        curate(pipeline, pool, out, map_tasks=StopAfter(after))
    done_before = {done.key for done in all_done(LocalStore(out))}
    ran: list[str] = []

    def watched(function: Any, items: Sequence[Any], *, on_result: Any = None) -> list[Any]:
        ran.extend(item.key for item in items if hasattr(item, "key"))
        return map_here(function, items, on_result=on_result)

    again = curate(pipeline, pool, out, map_tasks=watched)
    shard_work = {key for key in ran if key[0] in "pf"}
    assert not shard_work & done_before, "finished work was done again"
    assert again.record.id == result.record.id
    assert unreferenced(LocalStore(out), folders=("data",)) == []


KILLED = """
import sys
from pathlib import Path
from pipelines.pipeline import Pipeline
from pipelines.formats.pool import open_pool
from pipelines.engine.run import run
steps, folder, pool, out = sys.argv[1:]
import orjson
run(Pipeline.from_steps(orjson.loads(steps), name="everything", folder=Path(folder)),
    open_pool(pool), out=out)
"""


@pytest.mark.slow
def test_kill_nine_at_any_moment_loses_nothing(
    undisturbed: tuple[Result, Path],
    pipeline: Pipeline,
    pool: Path,
    steps_folder: Path,
    tmp_path: Path,
) -> None:
    result, _ = undisturbed
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, orjson.dumps(STEPS).decode()]
    killed = 0
    for attempt in range(4):
        process = subprocess.Popen(
            [*command, str(steps_folder), str(pool), str(out)],
            cwd=Path(__file__).parents[3],
            stderr=subprocess.DEVNULL,
        )
        expected = 3 + 5 * attempt  # commits that are there when the process is killed
        while process.poll() is None and len(list(out.glob("done/*.json"))) < expected:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 2
    again = curate(pipeline, pool, out)
    assert again.record.id == result.record.id
    assert outputs(again) == outputs(result)
    assert unreferenced(LocalStore(out), folders=("data",)) == []


def test_the_folder_of_another_run_is_refused(
    undisturbed: tuple[Result, Path], pool: Path, tmp_path: Path
) -> None:
    _, out = undisturbed
    other = Pipeline.from_steps(["exact_dedup"], name="other")
    with pytest.raises(RunFailed, match="holds another finished run"):
        curate(other, pool, out)
    with pytest.raises(KeyboardInterrupt):
        curate(other, pool, tmp_path / "half", map_tasks=StopAfter(1))
    third = Pipeline.from_steps(["word_count"], name="third")
    with pytest.raises(RunFailed, match="holds the unfinished run of 'other'"):
        curate(third, pool, tmp_path / "half")


def test_changed_code_is_another_dataset(pool: Path, tmp_path: Path) -> None:
    ids = []
    for number, limit in enumerate((3, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(
            "import numpy as np\n"
            "from pipelines.operators import Filter, because\n"
            "class Mine(Filter):\n"
            '    """Drop documents with few words."""\n'
            '    reasons = ("few",)\n'
            "    def reject(self, batch):\n"
            f"        few = [len(t.split()) < {limit} for t in batch.text.to_pylist()]\n"
            '        return because(np.array(few), "few")\n'
        )
        mine = Pipeline.from_steps(["mine.py:Mine"], name="mine", folder=folder)
        result = curate(mine, pool, folder / "out")
        ids.append(result.record.id)
        [module] = result.record.work.modules
        assert module.text == (folder / "mine.py").read_text()
    assert ids[0] != ids[1]


# ---- bad input


def broken_pool(tmp_path: Path) -> Path:
    folder = write_pool(tmp_path / "in", shards=2, rows=10)
    lines = (folder / "001.jsonl").read_bytes().splitlines(keepends=True)
    lines[4] = b'{"text": "broken\n'
    (folder / "001.jsonl").write_bytes(b"".join(lines))
    return folder


def test_a_broken_line_stops_the_run_and_is_named(tmp_path: Path) -> None:
    simple = Pipeline.from_steps(["word_count"])
    with pytest.raises(ShardError, match=r"001\.jsonl, record 5: not JSON.*--quarantine"):
        curate(simple, broken_pool(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / "record.json").exists()


def test_with_quarantine_a_broken_line_is_set_aside_and_counted(tmp_path: Path) -> None:
    simple = Pipeline.from_steps([{"word_count": {"min_words": 1}}])
    result = curate(simple, broken_pool(tmp_path), tmp_path / "out", quarantine=True)
    assert result.record.counts["errors"] == 1
    assert result.record.counts["rows_out"] == 19
    [file] = (tmp_path / "out" / "quarantine").iterdir()
    row = orjson.loads(file.read_bytes())
    assert (row["shard"], row["step"], row["raw"]) == ("001.jsonl", "read", '{"text": "broken\n')


RAISES = '''
import pyarrow as pa
from pipelines.operators import Modifier, each
from pipelines.schema import STRING, TEXT


class Fragile(Modifier):
    """Fails on documents that name a number."""

    def writes(self):
        return {TEXT: STRING}

    def modify(self, batch):
        def change(text):
            if "number 21" in text:
                raise KeyError("cannot count to 21")
            return text.upper()
        return {TEXT: each(batch.text, change)}
'''


def test_an_operator_that_raises_names_shard_and_row(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(RAISES)
    fragile = Pipeline.from_steps(["fragile.py:Fragile"], folder=tmp_path)
    with pytest.raises(OperatorFailed, match=r"step 1 .*000\.jsonl, row 7 .*cannot count to 21"):
        curate(fragile, pool, tmp_path / "out")


def test_with_quarantine_only_the_failing_rows_are_set_aside(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(RAISES)
    fragile = Pipeline.from_steps(["fragile.py:Fragile"], folder=tmp_path)
    result = curate(fragile, pool, tmp_path / "out", quarantine=True)
    failing = sum("number 21" in path.read_text() for path in pool.iterdir())
    assert result.record.counts["errors"] == failing > 0
    result.summary.stats.check()
    kept = pq.read_table(tmp_path / "out" / result.record.outputs[0].name)
    assert all(text == text.upper() for text in kept.column("text").to_pylist())


def test_a_column_that_is_not_there_is_named_before_anything_runs(
    pool: Path, tmp_path: Path
) -> None:
    wrong = Pipeline.from_steps([{"select": {"by": "qualty", "fraction": 0.5}}])
    with pytest.raises(PipelineError, match=r"step 1 .select. reads the column 'qualty'"):
        curate(wrong, pool, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_that_a_reader_would_see(pool: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pipelines.pipeline import Pipeline\n"
        "from pipelines.formats.pool import open_pool\n"
        "from pipelines.engine.run import run\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))\n"
        "run(Pipeline.from_steps([{'word_count': {'min_words': 1}}]), open_pool(sys.argv[1]),\n"
        "    out=sys.argv[2])\n"
    )
    out = tmp_path / "out"
    failed = subprocess.run(
        [sys.executable, "-c", code, str(pool), str(out)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert failed.returncode != 0
    assert "cannot write" in failed.stderr
    assert "free space" in failed.stderr
    assert not (out / "record.json").exists()
    assert unreferenced(LocalStore(out), folders=("data",)) == []


# ---- small pools


def test_a_pool_of_one_document(steps_folder: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    text = "one document that has quite enough words to stay"
    (folder / "0.jsonl").write_bytes(orjson.dumps({"text": text}) + b"\n")
    result = curate(pipeline, folder, tmp_path / "out")
    result.summary.stats.check()
    assert result.record.counts["rows_in"] == 1
    table = pq.read_table(tmp_path / "out" / result.record.outputs[0].name)
    assert {"row", "text", "length"} <= set(table.column_names)


def test_apply_tells_what_became_of_each_row() -> None:
    table = pa.table({"text": ["one two three", "one two three", "few", None, "a b c d e"]})
    steps = [{"word_count": {"min_words": 3}}, "exact_dedup"]
    applied = apply(Pipeline.from_steps(steps), table)
    assert applied.table.column("row").to_pylist() == [0, 4]
    assert applied.rejected.to_pylist() == [
        {"row": 1, "step": 1, "operator": "exact_dedup", "reason": "duplicate"},
        {"row": 2, "step": 0, "operator": "word_count", "reason": "too_few_words"},
        {"row": 3, "step": -1, "operator": "read", "reason": "no_text"},
    ]
    assert applied.errors.num_rows == 0


def test_work_that_cannot_travel_is_told_at_once_and_the_workers_go_on():
    workers = ProcessMap(2)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        workers(abs, [1, lambda: 2, 3])
    assert workers(abs, [-1, -2, -3]) == [1, 2, 3]
