"""The n-gram Bloom filter against recorded runs of BFF, its size, and its edge cases."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipelines import kernels
from pipelines.dedup.ngram_bloom import CONTAINED, CONTAINED_BEFORE, EXACT, SPANS, NgramBloomDedup
from pipelines.engine.apply import apply
from pipelines.engine.run import run
from pipelines.execution.executors import ProcessMap
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING, TEXT

SENTENCE = "The quick brown fox jumps over the lazy dog while the band plays on and on tonight."
COLUMNS = (CONTAINED, CONTAINED_BEFORE, EXACT, SPANS)


def lines_of(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in gzip.open(path)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "settings" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("reference_results")) / "dclm-processing"
    path = folder / "bff_results.jsonl.gz"
    collected: dict[str, Any] = {}
    if path.exists():
        collected = {orjson.dumps(line["run"]).decode(): line["run"] for line in lines_of(path)}
    names = [
        f"{run['mode']}-{run['min_ngram']}-{run['max_ngram']}-{run['threshold']}"
        f"-{run['substr_seqlen']}{'-annotate' * run['annotate']}"
        for run in collected.values()
    ]
    metafunc.parametrize("settings", list(collected.values()), ids=names)


@pytest.fixture(scope="module")
def recorded(fixtures: Path) -> tuple[list[Any], list[Any]]:
    folder = fixtures / "dclm-processing"
    return lines_of(folder / "bff_input.jsonl.gz"), lines_of(folder / "bff_results.jsonl.gz")


def operator(**parameters: Any) -> NgramBloomDedup:
    return NgramBloomDedup.model_validate({"expected_ngrams": 100_000} | parameters)


@pytest.mark.parity
def test_agrees_with_every_recorded_run_of_bff(
    settings: dict[str, Any], recorded: tuple[list[Any], list[Any]]
) -> None:
    documents, results = recorded
    expected = {line["id"]: line for line in results if line["run"] == settings}
    assert len(expected) == len(documents)
    dedup = operator(
        mode=settings["mode"].replace("-", "_"),
        min_ngram=settings["min_ngram"],
        max_ngram=settings["max_ngram"],
        threshold=settings["threshold"],
        substring_length=settings["substr_seqlen"],
        annotate=settings["annotate"],
        expected_ngrams=1_000_000,
        false_positive_rate=1e-9,
    )
    state = dedup.start()
    for first in range(0, len(documents), 100):
        part = documents[first : first + 100]
        sieve = dedup.sieve(state, pa.array([line["text"] for line in part], STRING))
        assert set(sieve.columns) == set(dedup.writes())
        for number, line in enumerate(part):
            want = expected[line["id"]]
            got = {name: column[number].as_py() for name, column in sieve.columns.items()}
            text = got.pop(TEXT)
            assert (text is None) == want["dropped"], line["id"]
            if text is not None:
                assert text == want.get("text", line["text"]), line["id"]
            if got.get(SPANS) is not None:
                got[SPANS] = orjson.loads(got[SPANS])
            assert {k: v for k, v in got.items() if v is not None} == want["added"], line["id"]
            if settings["mode"] != "old-both":  # it counts paragraphs
                assert (
                    sieve.removed[number] + _leading(settings, line["text"], want)
                    == (want["removed"])
                ), line["id"]


def _leading(settings: dict[str, Any], text: str, want: dict[str, Any]) -> int:
    """White space before the first word, which BFF counts as removed by `substring`."""
    if settings["mode"] != "substring" or want["total"] != len(text.encode()):
        return 0
    return len(text.encode()) - len(text.lstrip().encode())


def kept(dedup: NgramBloomDedup, *texts: str) -> list[str | None]:
    sieve = dedup.sieve(dedup.start(), pa.array(texts, STRING))
    return list(sieve.columns[TEXT].to_pylist())


def test_paragraphs_go_one_by_one_and_the_page_by_their_sum() -> None:
    other = "A much longer story that nobody else on this whole wide web has told so far, I hope."
    page = f"{other}\n{SENTENCE}"
    assert kept(operator(mode="paragraph"), SENTENCE, page) == [SENTENCE, other]
    assert kept(operator(mode="old_both"), SENTENCE, page, page) == [SENTENCE, other, None]
    assert kept(operator(mode="naive_both"), page) == [None]


@pytest.mark.parametrize(
    "mode", ["old_both", "both", "naive_both", "paragraph", "document", "exact", "substring"]
)
def test_short_blank_and_repeated_texts(mode: str) -> None:
    dedup = operator(mode=mode, substring_length=5)
    assert kept(dedup) == []
    assert kept(dedup, "", " \n\t", "\n") == [None, None, None]
    short = kept(dedup, "too short", "too short")
    assert short == (["too short", None] if mode == "exact" else ["too short", "too short"])
    first, *others = kept(dedup, *[SENTENCE] * 1000)
    assert first == (None if mode == "naive_both" else SENTENCE)
    assert set(others) == {None}
    word = kept(dedup, "again " * 10_000 + "end", "again " * 10_000 + "end")
    assert word[1] is None


def test_the_filter_has_the_rate_it_was_asked_for() -> None:
    bloom, rng = kernels.bloom, np.random.default_rng(7)
    for rate in (0.1, 0.01, 0.001):
        filter_ = bloom.new_filter(200_000, rate)
        assert not bloom.seen(filter_, rng.integers(0, 1 << 64, 1000, dtype=np.uint64)).any()
        bloom.seen(filter_, rng.integers(0, 1 << 64, 199_000, dtype=np.uint64))
        probes = rng.integers(0, 1 << 64, 400_000, dtype=np.uint64)
        actual = bloom._known(probes, filter_.bits, filter_.num_hashes).mean()
        sigma = (rate / len(probes)) ** 0.5
        assert abs(actual - rate) < 5 * sigma + 0.03 * rate
        assert filter_.bits.nbytes * 8 < 1.6 * 200_000 * np.log(1 / rate) / np.log(2) ** 2


def test_a_full_filter_is_an_error_that_names_a_size_that_is_enough() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(map(str, rng.integers(0, 1 << 30, 113))) for _ in range(300)]
    table = pa.table({"text": texts})
    steps: list[Any] = [{"ngram_bloom_dedup": {"expected_ngrams": 20_000}}]
    with pytest.raises(Exception, match=r"Bloom filter is full.*20000.*expected_ngrams per GiB"):
        apply(Pipeline.from_steps(steps), table, quarantine=False)
    steps = [{"ngram_bloom_dedup": {"expected_ngrams": 31_000}}]
    assert apply(Pipeline.from_steps(steps), table).table.num_rows == 300


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"min_ngram .20. is above max_ngram .13."):
        operator(min_ngram=20)
    with pytest.raises(ValueError, match="need a filter above 256 GiB"):
        kernels.bloom.size(10**15, 0.01)


def test_one_and_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(4):
        lines = [{"text": f"{SENTENCE}\nshard {shard} number {n % 7}"} for n in range(30)]
        (folder / f"{shard}.jsonl").write_bytes(b"".join(orjson.dumps(x) + b"\n" for x in lines))
    parameters = {"expected_ngrams": 10_000, "groups": 2}
    pipeline = Pipeline.from_steps([{"ngram_bloom_dedup": parameters}], name="bloom")
    pool = open_pool(str(folder))
    first = run(pipeline, pool, out=str(tmp_path / "one"))
    second = run(pipeline, pool, out=str(tmp_path / "two"), map_tasks=ProcessMap(2))
    assert first.record.id == second.record.id
    assert first.record.counts["rows_out"] == 2  # the first of each group


@pytest.mark.parametrize("mode", ["document", "paragraph", "old_both"])
@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 3), (4, 4)])
@pytest.mark.parametrize("units", ["uax29", "whitespace"])
def test_agrees_with_a_plain_set_of_n_grams(mode: str, low: int, high: int, units: str) -> None:
    rng = np.random.default_rng(high)
    texts = []
    for _ in range(300):
        lines = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 9))) for _ in range(4)]
        texts.append("\n".join(lines[: rng.integers(0, 5)]))
    dedup = operator(mode=mode, min_ngram=low, max_ngram=high, threshold=0.6, units=units)
    known: set[tuple[str, ...]] = set()
    expected = [plain(text, mode, low, high, known) for text in texts]
    assert kept(dedup, *texts) == expected
    assert 20 < expected.count(None) < 295


def plain(text: str, mode: str, low: int, high: int, known: set[tuple[str, ...]]) -> str | None:
    lines = text.split("\n")
    units = [text] if mode == "document" else [lines[0], *("\n" + line for line in lines[1:])]
    out, hits, total = "", 0, 0
    for unit in units:
        words = unit.split()
        width = min(high, len(words))
        grams = [tuple(words[i : i + width]) for i in range(len(words) - width + 1)]
        grams = grams if len(words) >= low else []
        actual = sum(gram in known for gram in grams)
        hits, total = hits + actual, total + len(grams)
        if not grams or actual / len(grams) <= 0.6:
            known.update(grams)
            out += unit
    if mode == "old_both" and total and hits / total > 0.6:
        return None
    return out if out.strip() else None
