"""Answer losses: how many bits a model needs for each byte of a question's right answer.

The question is asked as its own kind asks it (`evals.text.language`), with the same solved
examples; only the right answer is scored. The score is all bits over all bytes of the answers as
the data has them, so models with different tokenizers can be compared. At sizes where accuracy is
still at chance it orders datasets as larger models do (docs/deciding.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from evals.items import Item, Tally, TaskData
from evals.kinds import Kind
from evals.models import LanguageModel, ModelError, Query, loss_fault
from evals.tasks import AnswerLossTask, LanguageTask
from evals.text.language import KINDS as LANGUAGE_KINDS
from evals.text.language import check_vocabulary, kept_prompts
from evals.text.perplexity import LOG as DOCUMENT_LOG
from evals.text.perplexity import bits_per_byte

LOG = pa.schema([field for field in DOCUMENT_LOG if field.name != "losses"])


class AnswerLoss(Kind[AnswerLossTask]):
    """Bits per byte of right answers."""

    def item(self, row: Mapping[str, Any], index: int, task: AnswerLossTask) -> Item:
        return LANGUAGE_KINDS[task.asked].item(row, index, _question(task))

    def answer(
        self,
        task: AnswerLossTask,
        data: TaskData,
        rows: Sequence[int],
        model: LanguageModel,
        *,
        window: int,
    ) -> pa.Table:
        asked = kept_prompts(_question(task), data, model).requests(rows, window=window)
        items = [data.items[row] for row in rows]
        queries = []
        for item, request in zip(items, asked, strict=True):
            check_vocabulary(task.name, request, model)
            option = request.options[item.gold or 0]
            queries.append(Query(option.context, (option.answer,)))
        entries = []
        for item, request, [scores] in zip(items, asked, model.score(queries), strict=True):
            if problem := loss_fault(scores.losses):
                raise ModelError(f"task {task.name}, row {item.row}: the model gives {problem}")
            entries.append(
                {
                    "row": item.row,
                    "category": request.category,
                    "num_bytes": len(right_answer(item).encode()),
                    "num_tokens": len(scores.losses),
                    "nats": float(scores.losses.sum(dtype=np.float64)),
                }
            )
        return pa.Table.from_pylist(entries, schema=LOG)

    def tally(self, task: AnswerLossTask, log: pa.Table) -> Tally:
        return bits_per_byte(log)


def right_answer(item: Item) -> str:
    """The text of the right answer, as the data has it."""
    if item.options:
        assert item.gold is not None
        return item.options[item.gold]
    return item.answer


@cache
def _question(task: AnswerLossTask) -> LanguageTask:
    return task.question()


KINDS: dict[str, Kind[AnswerLossTask]] = {"answer_loss": AnswerLoss()}
