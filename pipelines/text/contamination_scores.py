"""How much of an evaluation item a document holds, as a score: a column, or a limit of a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Case, Counted, Filter, Modifier, Operator
from pipelines.schema import STRING
from pipelines.text.contamination import read_items
from pipelines.text.similar_items import MIN_SCORE, Matches, SimilarItems, passage


class _Similar(Operator):
    """The parameters that say what is compared, and the best item of each document."""

    items: str = Field(description="asset: a table that `evals items SUITE --out FILE` wrote")
    _similar: Any = PrivateAttr(None)
    _names: Any = PrivateAttr(None)

    def assets(self) -> tuple[str, ...]:
        return (self.items,)

    def load(self, assets: AssetFolder) -> None:
        table = read_items(assets.path(self.items))
        self._similar = SimilarItems(table)
        self._names = table.select(["task", "item"]).combine_chunks()

    def best(self, batch: Batch) -> Matches:
        """The item of the highest score of each document that has one (the first of equal ones)."""
        matches: Matches = self._similar.matches(batch.text)
        order = np.lexsort((matches.item, -matches.score, matches.row))
        _, first = np.unique(matches.row[order], return_index=True)
        return matches.take(order[first])

    def name_of(self, item: int) -> str:
        """Task and row of an item."""
        return f"{self._names['task'][item].as_py()}:{self._names['item'][item].as_py()}"


def _scores(matches: Matches, num_rows: int) -> npt.NDArray[np.float64]:
    scores = np.zeros(num_rows)
    scores[matches.row] = matches.score
    return scores


class ContaminationScores(_Similar, Modifier, name="contamination_scores"):
    """Add how much of an evaluation item each document holds: 0 for nothing, 1 for a copy.

    The score is the part of the item's 5-grams of words, rare ones weighing more, that is within
    a stretch of twice the item's length. The highest item is named as task:row, with the passage.
    Items of fewer than 8 words are left out.
    """

    prefix: str = Field("contamination", min_length=1, description="the columns begin with it")

    def writes(self) -> Mapping[str, pa.DataType]:
        return {
            f"{self.prefix}_score": pa.float64(),
            f"{self.prefix}_item": STRING,
            f"{self.prefix}_passage": STRING,
        }

    def modify(self, batch: Batch) -> Counted:
        best = self.best(batch)
        items: list[str | None] = [None] * batch.num_rows
        passages: list[str | None] = [None] * batch.num_rows
        texts = batch.text
        counts: dict[str, int] = {}
        for row, item, score, first, last in zip(*(v.tolist() for v in best), strict=True):
            items[row] = self.name_of(item)
            passages[row] = passage(texts[row].as_py(), first, last)
            if score >= MIN_SCORE:
                task = f"documents with {items[row].rpartition(':')[0]}"  # type: ignore[union-attr]
                counts[task] = counts.get(task, 0) + 1
        columns = (
            pa.array(_scores(best, batch.num_rows)),
            pa.array(items, STRING),
            pa.array(passages, STRING),
        )
        return Counted(dict(zip(self.writes(), columns, strict=True)), counts)


class DecontaminateSimilar(_Similar, Filter, name="decontaminate_similar"):
    """Reject documents that hold an evaluation item or a light paraphrase of one.

    The score is that of `contamination_scores`. (Brown et al. 2020, C, look for one n-gram of 13
    words; a word in ten that is another one hides an item from that)
    """

    min_score: float = Field(
        MIN_SCORE, gt=0, le=1, description="documents with this score or a higher one go"
    )
    reasons: ClassVar[tuple[str, ...]] = ("holds_similar_item",)

    def cases(self, batch: Batch) -> Sequence[Case]:
        scores = _scores(self.best(batch), batch.num_rows)
        return [Case(scores >= self.min_score, self.reasons[0], scores, self.min_score)]

    def passage(self, batch: Batch, reason: str) -> str | None:
        best = self.best(batch)
        if not len(best.row):
            return None
        text = passage(batch.text[0].as_py(), int(best.first[0]), int(best.last[0]))
        return f"{self.name_of(int(best.item[0]))}: {text}"
