"""The score of the nearest evaluation item: as columns, and as the limit of a filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.engine.apply import apply
from pipelines.engine.evidence import evidence_of
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.text.contamination_scores import DecontaminateSimilar

HILLS = "Which of the seven hills of Rome is the tallest one that tourists still climb today"
NEAR = "which of the seven hills of Rome is the highest one that tourists still climb today"
TEXTS = [f"Quiz! {HILLS.upper()}?", f"{NEAR}, they ask", "nothing of the seven hills"]


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    items = pa.table({"task": ["t", "hills"], "item": [4, 7], "text": ["a b", HILLS]})
    pq.write_table(items, tmp_path / "items.parquet")
    return Assets(folders=(tmp_path,))


def applied(step: Any, texts: list[str], assets: Assets) -> Any:
    pipeline = Pipeline.from_steps([step], assets=assets)
    return apply(pipeline, pa.table({"text": texts}), quarantine=False)


def test_scores_items_and_passages_are_columns(assets: Assets) -> None:
    result = applied({"contamination_scores": {"items": "items.parquet"}}, TEXTS[:3], assets)
    table = result.table
    assert table["contamination_item"].to_pylist() == ["hills:7", "hills:7", None]
    # one word of 16 is another: of the twelve 5-grams, the five that hold it are missing
    assert table["contamination_score"].to_pylist() == pytest.approx([1, 7 / 12, 0])
    assert table["contamination_passage"].to_pylist() == [HILLS.upper(), NEAR, None]
    assert result.stats.step(0).counters == {"documents with hills": 2}


def test_documents_from_the_least_score_on_go(assets: Assets) -> None:
    step = {"decontaminate_similar": {"items": "items.parquet", "min_score": 0.6}}
    result = applied(step, TEXTS[:3], assets)
    assert result.table["row"].to_pylist() == [1, 2]
    assert result.rejected["reason"].to_pylist() == ["holds_similar_item"]


def test_a_rejected_document_is_explained(assets: Assets) -> None:
    step = {"decontaminate_similar": {"items": "items.parquet"}}
    operator = Pipeline.from_steps([step], assets=assets).steps[0].operator
    assert isinstance(operator, DecontaminateSimilar)
    operator.load(assets)
    evidence = evidence_of(
        operator, Batch(pa.table({"text": pa.array(TEXTS[:1], STRING)})), "holds_similar_item"
    )
    assert evidence.value == 1.0
    assert evidence.limit == 0.35
    assert evidence.passage == f"hills:7: {HILLS.upper()}"
