"""What a person asks of a pipeline and a run: try, why, the report, the forecast."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import yaml

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.engine.run import run
from pipelines.engine.run_folder import Result
from pipelines.errors import PipelineError
from pipelines.formats.pool import Pool, open_pool
from pipelines.pipeline import Pipeline
from pipelines.registry import registry
from pipelines.reports import forecast as forecasting
from pipelines.reports import run_page
from pipelines.reports.try_document import diff, trace, trace_text
from pipelines.reports.why import fates
from pipelines.schema import STRING
from pipelines.stats import Histogram, histogram_of
from pipelines.storage.open import open_store

STEPS: list[Any] = [
    {"word_count": {"min_words": 5}},
    {"substrings": {"phrases": ["lorem ipsum"]}},
    "repeated_lines",
    {"hash_sample": {"fraction": 0.9}},
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool") / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for shard in range(6):
        rows = []
        for n in range(200):
            text = " ".join(f"w{word}" for word in rng.integers(0, 900, rng.integers(2, 40)))
            if n % 10 == 3:
                text = f"before it {text} Lorem ipsum and so on"
            if n % 10 == 4:
                text = "\n".join([text, *["the same line again"] * 8])
            rows.append({"text": text, "url": f"https://x.example/{shard}/{n}"})
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (folder / f"{shard}.jsonl").write_bytes(data)
    return open_pool(str(folder))


@pytest.fixture(scope="module")
def done(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result]:
    out = str(tmp_path_factory.mktemp("done") / "out")
    return out, run(Pipeline.from_steps(STEPS, name="look"), pool, out=out)


def batch_of(text: str, **columns: Any) -> Batch:
    table = pa.table({"row": pa.array([0]), "text": pa.array([text], STRING), **columns})
    return Batch(table)


# ---- try


def test_each_step_tells_what_it_saw() -> None:
    steps = ["policy_lines", {"word_count": {"min_words": 4}}, "exact_dedup", "stop_words"]
    pipeline = Pipeline.from_steps(steps)
    text = "One line stays here today\nread our privacy policy\nand one more"
    traces = trace(pipeline.steps, batch_of(text), Assets())
    assert [step.outcome for step in traces] == [
        "changed",
        "kept",
        "looks at the whole pool",
        "rejected",
    ]
    assert traces[0].before == text
    assert traces[0].after == "One line stays here today\nand one more"
    last = traces[-1]
    assert last.reason == "too_few_stop_words"
    assert last.evidence is not None
    assert (last.evidence.value, last.evidence.limit) == (1, 2)
    shown = trace_text(traces, 5)
    assert "- read our privacy policy" in shown
    assert "stop_words: rejected, too_few_stop_words: 1 (limit 2)" in shown
    assert "1 more steps do not see it" in shown


def test_a_diff_marks_what_went_inside_a_line() -> None:
    lines = list(diff("a\nsee https://x.example now\nb", "a\nsee now\nb"))
    assert lines == ["@@ line 1", "  a", "~ see [-https://x.example -]now", "  b"]


def test_a_step_that_cannot_is_named() -> None:
    pipeline = Pipeline.from_steps(["language"])
    with pytest.raises(PipelineError, match=r"step 1 \(language\) fails .* no column 'language'"):
        trace(pipeline.steps, batch_of("x"), Assets())


def test_the_try_command(tmp_path: Path, pool: Pool) -> None:
    config = tmp_path / "p.yaml"
    config.write_text(yaml.safe_dump({"name": "p", "steps": STEPS}))
    (tmp_path / "t.txt").write_text("only three words")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", "try", str(config), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "too_few_words: 3 (limit 5)" in call("--text", str(tmp_path / "t.txt")).stdout
    result = call("--url", "https://x.example/2/3", "--input", pool.uri)
    assert "contains_phrase: '" in result.stdout
    assert "lorem ipsum" in result.stdout
    assert "no document of" in call("--url", "https://no.example", "--input", pool.uri).stderr
    assert "give a document" in call().stderr
    (tmp_path / "own.py").write_text(
        "from pipelines.operators import Filter, because\n"
        "class Raises(Filter, name='raises'):\n"
        '    """Look for a licence."""\n'
        "    reasons = ('x',)\n"
        "    def reject(self, batch):\n"
        "        return because([{}['licence'] for _ in batch.text.to_pylist()], 'x')\n"
    )
    config.write_text("name: p\nsteps:\n  - own.py:Raises\n")
    error = call("--text", str(tmp_path / "t.txt")).stderr
    assert "(own.py:Raises) fails on this document: KeyError: 'licence' (own.py, line 6)" in error


# ---- evidence


def test_every_rule_with_a_limit_agrees_with_its_verdict() -> None:
    """A row goes for the first rule that holds, and the value is beyond the limit."""
    from pipelines.engine.evidence import has_cases

    rng = np.random.default_rng(3)
    pieces = ["the cat", "...", "- item", "x" * 60, "Ünï", "7", "#", "of and that", "\n", "\n\n"]
    texts = [" ".join(rng.choice(pieces, rng.integers(0, 40))) for _ in range(400)]
    rows = {"row": pa.array(range(400)), "text": pa.array(texts, STRING)}
    columns = {"language": pa.array(["en"] * 400, STRING)}
    batch = Batch(pa.table({**rows, **columns, "language_probability": rng.random(400)}))
    tried = 0
    for name, cls in registry().items():
        if cls.kind != "filter" or any(f.is_required() for f in cls.model_fields.values()):
            continue
        try:
            operator = cls()
        except ValueError:  # it needs a list, or bounds
            continue
        if not has_cases(operator) or operator.assets() or operator.optional_reads():
            continue
        if not set(operator.reads()) <= set(batch.table.column_names):  # of pairs, not documents
            continue
        reasons = operator.reject(batch).to_pylist()
        for case in operator.cases(batch):
            if case.value is None or case.limit is None:
                continue
            tried += 1
            value = np.asarray(case.value, dtype=float)
            inside = ~case.rejected & np.isfinite(value)
            beyond = case.rejected & np.isfinite(value)
            if beyond.any() and inside.any():  # all that go are on one side of the limit
                above = (value[beyond] >= case.limit).all()
                below = (value[beyond] <= case.limit).all()
                assert above or below, (name, case.reason)
        for position in np.flatnonzero([reason is not None for reason in reasons])[:20].tolist():
            assert operator.passage(batch.slice(position, 1), reasons[position]) is not False
    assert tried >= 15


def test_why_tells_the_value_of_any_row(done: tuple[str, Result], pool: Pool) -> None:
    out, _ = done
    store = open_store(out)
    rejected = [
        fate
        for shard in range(6)
        for n in range(0, 200, 7)
        for fate in fates(store, f"{shard}:{n}")
        if fate.fate == "rejected"
    ]
    assert len(rejected) > 20
    for fate in rejected:
        if fate.operator == "hash_sample":
            continue
        assert fate.evidence is not None
        if fate.reason == "too_few_words":
            assert fate.evidence.value is not None
            assert fate.evidence.value < 5 == fate.evidence.limit
        if fate.reason == "contains_phrase":
            assert "lorem ipsum" in str(fate.evidence.passage)
        if fate.reason == "repeated_lines":
            assert "the same line again" in str(fate.evidence.passage)


# ---- histograms


def test_bins_hold_what_was_measured() -> None:
    shares = histogram_of(np.array([0.0, 0.019, 0.5, 1.0, np.nan, np.inf]), 0.3)
    assert shares == {0: 2, 25: 1, 50: 1}
    counts = histogram_of(np.array([0, 1, 7, 1000, -7]), 50)
    for position, number in counts.items():
        low, high = Histogram(limit=50).edges(position)
        inside = [v for v in (0, 1, 7, 1000, -7) if low <= v < high or (v < 0 and low < v <= high)]
        assert len(inside) == number
    assert sum(counts.values()) == 5


def test_histograms_count_every_row_that_a_step_saw(done: tuple[str, Result]) -> None:
    stats = done[1].summary.stats
    words = stats.step(0).histograms["too_few_words"]
    assert sum(words.bins.values()) == stats.step(0).rows_in == 1200
    assert words.limit == 5
    removed = sum(n for position, n in words.bins.items() if words.edges(int(position))[1] <= 5)
    assert removed <= stats.step(0).reasons["too_few_words"]
    sample = stats.step(3).histograms["not_sampled"]
    assert sum(sample.bins.values()) == stats.step(3).rows_in


# ---- the report


class _Checked(HTMLParser):
    """Every element that is opened is closed, and nothing comes from elsewhere."""

    VOID = frozenset({"meta", "br", "img", "link", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag not in ("script", "iframe", "object")
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_funnel_samples_and_histograms(done: tuple[str, Result]) -> None:
    out, result = done
    store = open_store(out)
    run_page.write(store, result)
    page = (Path(out) / "report.html").read_text()
    checked = _Checked()
    checked.feed(page.replace("<!doctype html>", "").replace("</rect>", ""))
    assert "look: " in checked.text
    assert "before it" in checked.text  # a sample
    assert "8 times: the same line again" in checked.text  # its passage
    assert re.search(r"measured [234] \(limit 5\)", checked.text)
    assert page.count("<svg") >= 4
    assert run_page.report_html(store, result.record, result.summary) == page


def test_texts_in_the_report_are_escaped(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script> & "quoted" </blockquote>'
    table = pa.table({"text": [evil, "fine words that stay in here"]})
    (tmp_path / "in").mkdir()
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "in" / "0.parquet")
    steps = [{"word_count": {"min_words": 5}}]
    out = str(tmp_path / "out")
    result = run(Pipeline.from_steps(steps), open_pool(str(tmp_path / "in")), out=out)
    run_page.write(open_store(out), result)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_kept_rows_and_the_one_nearest_to_the_limit_are_shown(tmp_path: Path) -> None:
    shards = (["one two"] * 9 + ["enough of it " * 5000], ["word " * 11_999, "one two"])
    (tmp_path / "in").mkdir()
    for number, rows in enumerate(shards):
        lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in rows)
        (tmp_path / "in" / f"{number}.jsonl").write_bytes(lines)
    out = str(tmp_path / "out")
    steps = [{"word_count": {"min_words": 12_000}}]
    result = run(Pipeline.from_steps(steps), open_pool(str(tmp_path / "in")), out=out)
    run_page.write(open_store(out), result)
    page = (tmp_path / "out" / "report.html").read_text()
    kept, _, rejected = page.partition("Why rows were rejected")
    assert "Some rows that were kept" in kept
    assert "enough of it" in kept
    measured = re.findall(r"measured ([\d,]+) \(limit 12,000\)", rejected)
    assert measured == ["2", "2", "11,999"]


# ---- the forecast


def test_the_interval_holds_what_comes(pool: Pool, done: tuple[str, Result]) -> None:
    pipeline = Pipeline.from_steps(STEPS, name="look")
    prediction = forecasting.forecast(pipeline, pool, fraction=0.9)
    actual = done[1].summary
    for name, bar, came in forecasting.compare(prediction, actual):
        if name != "CPU seconds":
            assert bar.low <= came * 1.02, name
            assert bar.high >= came * 0.98, name
    assert prediction.rows_in.value == 1200  # the shards are small: each is read whole
    assert prediction.steps["0"].value == actual.stats.step(0).rows_out


def test_a_part_of_large_shards_predicts_the_rest(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(8):
        lines = []
        for _ in range(6000):
            size = 3 if rng.random() < 0.3 else 9
            lines.append(orjson.dumps({"text": " ".join(["word"] * size)}))
        (folder / f"{shard}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    pipeline = Pipeline.from_steps([{"word_count": {"min_words": 5}}, "exact_dedup"])
    prediction = forecasting.forecast(pipeline, open_pool(str(folder)), fraction=0.1)
    assert prediction.sample_rows < 20_000
    assert prediction.rows_in.low <= 48_000 <= prediction.rows_in.high
    assert prediction.steps["0"].low <= 48_000 * 0.7 <= prediction.steps["0"].high * 1.02
    assert prediction.steps["0"].high - prediction.steps["0"].low < 48_000 * 0.1
    assert "step 2 (exact_dedup) looks at the whole pool" in prediction.notes[0]


def test_a_dry_run_writes_its_forecast_and_the_report_holds_it(tmp_path: Path, pool: Pool) -> None:
    config = tmp_path / "p.yaml"
    config.write_text(yaml.safe_dump({"name": "p", "steps": STEPS}))

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines", "run", str(config), "--input", pool.uri]
        command += ["--out", str(tmp_path / "out"), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    dry = call("--dry-run", "--sample", "50%")
    assert dry.returncode == 0, dry.stderr
    assert "rows out" in dry.stdout
    assert not (tmp_path / "out" / "record.json").exists()
    assert call().returncode == 0
    assert "Predicted and actual" in (tmp_path / "out" / "report.html").read_text()
    assert "expected a share" in call("--dry-run", "--sample", "a lot").stderr


# ---- warming up


def test_warming_up_compiles_what_runs_use() -> None:
    from pipelines.engine.warmup import warm_up

    warmed = warm_up(Assets())
    for name in ("gopher_repetition", "substrings", "minhash_dedup", "substring_dedup"):
        assert name in warmed.operators
    assert "words_removed" in warmed.left_out
