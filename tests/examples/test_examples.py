"""The examples run as they are, and stay short enough to read at a sitting."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipelines.execution.progress  # noqa: F401  its console is the process's, not a test's

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_LINES = 60


def example(name: str) -> dict[str, object]:
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_fits_on_a_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_a_dataframe_is_curated(capsys: pytest.CaptureFixture[str]) -> None:
    kept = example("dataframe.py")["main"]()  # type: ignore[operator]
    assert kept["id"].tolist() == ["a"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "kept: ['a']"
    assert [line.split() for line in printed[2:]] == [
        ["b", "exact_dedup", "duplicate"],
        ["c", "word_count", "too_few_words"],
        ["d", "word_count", "too_few_words"],
    ]


def test_a_classifier_of_ones_own_keeps_the_better_half(tmp_path: Path) -> None:
    prose = "the river runs past old stone houses and people walk slowly home with fresh bread"
    spam = "click buy cheap offer now win free casino pills best deal online order today only"
    (tmp_path / "good.txt").write_text("\n".join([prose] * 40))
    (tmp_path / "bad.txt").write_text("\n".join([spam] * 40))
    (tmp_path / "pool").mkdir()
    rows = [f'{{"text": "{text} {n}"}}' for n, text in enumerate([prose, spam] * 5)]
    (tmp_path / "pool" / "a.jsonl").write_text("\n".join(rows))
    main = example("own_classifier.py")["main"]
    names = ("good.txt", "bad.txt", "pool", "out")
    main(*(str(tmp_path / name) for name in names))  # type: ignore[operator]
    [data] = (tmp_path / "out" / "dataset" / "data").glob("*.parquet")
    texts = pq.read_table(data)["text"].to_pylist()
    assert len(texts) == 5
    assert all(text.startswith("the river") for text in texts)
