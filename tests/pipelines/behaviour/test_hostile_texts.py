"""Texts that nobody means well with: no crash, no hang, a clear error or a counted rejection."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import contract
from pipelines.engine.apply import apply
from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import run
from pipelines.errors import PipelineError
from pipelines.formats.pool import open_pool
from pipelines.operators import Operator
from pipelines.pipeline import Pipeline
from pipelines.registry import registry
from pipelines.schema import STRING
from pipelines.text import patterns

ROOT = Path(__file__).parents[3]
PIECES = st.sampled_from(
    [
        *("a", "the", "Of", " ", "\n", "\n\n", "\t", "\r", "\x00", "\x85", "\u2028", "\ufeff"),
        *("\u0301", "\u200d", "\u202e", "\u05d0", "\u0627\u0644", "\u30ab", "\u65e5", "\u0e01"),
        *("\U0001f468\u200d\U0001f469", "\U0001f1e9\U0001f1ea", "\u0130", "\u00df", "\u1e9e"),
        *(".", "...", "\u2026", "!", "{", "}", "javascript", "lorem ipsum", "* ", "#", "1", "1.2"),
        *("https://a.example/b?c=d", "x@y.example", "+1 555 123 4567", "10.0.0.1", "word " * 9),
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=25).map("".join), min_size=1, max_size=8)
CHAIN: list[Any] = [
    *("newlines", "policy_lines", "uppercase_lines", "line_words", "long_word_lines"),
    *("gopher_repetition", "word_count", "mean_word_length", "symbol_ratio", "bullet_lines"),
    *("ellipsis_lines", "alphabetic_words", "stop_words", "repeated_lines", "fineweb_quality"),
    *("mask_personal_data", {"length": {"unit": "character", "min_units": 1}}),
]


def usable() -> list[str]:
    """Filters and modifiers that need no parameters, files, or columns of others."""
    names = []
    for name, cls in sorted(registry().items()):
        if cls.kind not in ("filter", "modifier"):
            continue
        try:
            operator = cls()
        except ValueError:
            continue
        if not operator.assets() and not operator.optional_reads():
            names.append(name)
    return names


@pytest.mark.parametrize("name", usable())
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(texts=TEXTS)
def test_every_operator_keeps_its_promises_on_hostile_texts(name: str, texts: list[str]) -> None:
    operator: Operator = registry()[name]()
    try:
        operator.load(None)  # type: ignore[arg-type]
    except ValueError as error:
        pytest.skip(str(error))
    rows = len(texts)
    table = pa.table(
        {
            "row": pa.array(range(rows), pa.int64()),
            "text": pa.array(texts, STRING),
            "url": pa.array(["https://www.example.org/x"] * rows, STRING),
            "language": pa.array(["en"] * rows, STRING),
            "language_probability": pa.array([0.9] * rows),
            "num_tokens": pa.array([3] * rows, pa.int64()),
            "quality": pa.array([0.5] * rows),
        }
    )
    if set(operator.reads()) <= set(table.column_names):
        assert contract.check(operator, table=table) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("one line", "word " * 20_000_000),
        ("empty lines", "\n" * 10_000_000),
        ("one letter", "a" * 100_000_000),
        ("repeated", "the same five words again. " * 400_000),
        ("right to left", "\u202e\u05d0\u05d1 \u0627\u0644\u0301 " * 300_000),
        ("combining", "e" + "\u0301" * 3_000_000),
    ],
)
def test_one_enormous_document(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = pa.table({"text": pa.array([text, "a plain text next to it"], STRING)})
    pq.write_table(table, tmp_path / "in" / "0.parquet")
    started = time.process_time()
    result = run(
        Pipeline.from_steps(CHAIN),
        open_pool(str(tmp_path / "in")),
        out=str(tmp_path / "out"),
        quarantine=True,
    )
    counts = result.record.counts
    rejected = sum(n for key, n in counts.items() if key.startswith("rejected/"))
    assert counts["rows_in"] == 2 == counts["rows_out"] + rejected + counts["errors"]
    assert counts["errors"] == 0, name
    assert time.process_time() - started < 120


def test_what_is_no_text_is_set_aside_and_counted(tmp_path: Path) -> None:
    lines = [
        orjson.dumps({"text": "a good text"}),
        b'{"text": "lone \\ud800 surrogate"}',
        b'{"text": "bad \xff byte"}',
        b'{"text": "nul \\u0000 byte"}',
        b'{"text": 7}',
        b"[1, 2]",
        b'{"text": null}',
        b'{"url": "https://x.example"}',
        b"{",
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    result = run(
        Pipeline.from_steps(["word_count"]),
        open_pool(str(tmp_path / "in")),
        out=str(tmp_path / "out"),
        quarantine=True,
    )
    stats = result.summary.stats
    assert stats.rows_in == len(lines)
    assert stats.errors == 5
    assert stats.step(-1).reasons == {"no_text": 2}
    assert stats.step(0).reasons == {"too_few_words": 2}


# ---- lists and expressions


@pytest.mark.parametrize("name", ["substrings", "substring_lines", "url_substrings"])
def test_an_empty_list_is_an_error_and_not_everything(name: str) -> None:
    for phrases in ([], [""]):
        with pytest.raises(PipelineError, match="match"):
            Pipeline.from_steps([{name: {"phrases": phrases}}])


def test_a_wrong_expression_is_named() -> None:
    with pytest.raises(PipelineError, match="is not a regular expression"):
        Pipeline.from_steps([{"substrings": {"phrases": ["a(b"], "regex": True}}])


def test_a_catastrophic_expression_costs_its_time_limit_and_one_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(patterns, "SECONDS_PER_DOCUMENT", 0.3)
    texts = ["fine", "a" * 60 + "!", "also fine"]
    table = pa.table({"text": texts})
    steps = [{"substrings": {"phrases": ["(a|aa)+$"], "regex": True}}]
    started = time.process_time()
    applied = apply(Pipeline.from_steps(steps), table, quarantine=True)
    assert time.process_time() - started < 20
    assert applied.errors["row"].to_pylist() == [1]
    assert "TimeoutError" in applied.errors["message"][0].as_py()
    assert applied.table["row"].to_pylist() == [0, 2]
    with pytest.raises(OperatorFailed, match=r"row 1 .*TimeoutError"):
        apply(Pipeline.from_steps(steps), table, quarantine=False)


def test_a_missing_column_and_a_wrong_type_are_named() -> None:
    with pytest.raises(PipelineError, match="reads the column 'language', which is not there"):
        apply(Pipeline.from_steps(["language"]), pa.table({"text": ["a"]}))
    with pytest.raises(Exception, match="text"):
        apply(Pipeline.from_steps(["word_count"]), pa.table({"text": [1, 2]}))


# ---- bounds


KERNEL_TESTS = ("tests/pipelines/kernels",)
MORE_TESTS = (
    "tests/pipelines/test_contract.py",
    "tests/pipelines/dedup/test_exact.py",
    "tests/pipelines/dedup/test_minhash.py",
    "tests/pipelines/dedup/test_ngram_bloom.py",
    "tests/pipelines/dedup/test_substring.py",
    "tests/pipelines/reports/test_find_text.py",
    "tests/pipelines/text/test_lines.py",
    "tests/pipelines/text/test_contamination.py",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "tests", [KERNEL_TESTS, pytest.param(MORE_TESTS, marks=pytest.mark.soak)], ids=["own", "more"]
)
def test_no_kernel_leaves_its_arrays(tmp_path: Path, tests: tuple[str, ...]) -> None:
    """Numba checks no bounds unless it is asked to: the kernels' own tests once more, checked."""
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    probe = (
        "import numba, numpy\n@numba.njit\ndef past(a): return a[len(a)]\npast(numpy.zeros(3))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=False
    )
    assert "IndexError" in process.stderr  # the checks are on
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not soak"]  # what is long is no other code
    command += [*tests, "-k", "not workers and not forty_languages"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_a_worker_stays_below_a_gigabyte_on_shards_of_64_mb(tmp_path: Path) -> None:
    """Peak memory of a run over one shard of 64 MB of text, in a process of its own."""
    rng_words = [f"word{n % 977}" for n in range(12_000_000)]
    lines = []
    for begin in range(0, len(rng_words), 600):
        words = rng_words[begin : begin + 600]
        text = "\n".join(" ".join(words[i : i + 12]) + "." for i in range(0, 600, 12))
        lines.append(orjson.dumps({"text": text}))
    data = b"\n".join(lines) + b"\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.jsonl").write_bytes(data[: 64 << 20].rpartition(b"\n")[0] + b"\n")
    script = (
        "import sys\n"
        "from pipelines.pipeline import Pipeline\n"
        "from pipelines.formats.pool import open_pool\n"
        "from pipelines.engine.run import run\n"
        f"steps = {CHAIN!r}\n"
        "run(Pipeline.from_steps(steps), open_pool(sys.argv[1]), out=sys.argv[2])\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "in"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    peak = int(done.stdout.splitlines()[-1]) / 1024
    assert peak < 1000, f"{peak:.0f} MB"
