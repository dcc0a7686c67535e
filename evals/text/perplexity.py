"""Perplexity tasks: how many bits a model needs for each byte of a text it has not seen.

A document is tokenised whole and read in windows of `window` tokens that do not overlap. The first
token of a document is predicted from the model's document-start token, the first token of a later
window from the last token of the one before; so every token is scored exactly once. The loss in
nats is divided by ln 2 and by the number of UTF-8 bytes of the document as it is in the file.
The score is all bits over all bytes, so models with different tokenizers can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from evals.items import Item, Tally, TaskData, category_field, text_field
from evals.kinds import Kind
from evals.models import LanguageModel, ModelError, Query, loss_fault
from evals.tasks import PerplexityTask
from evals.text.prompts import as_ids
from pipelines.errors import DataError

LOG = pa.schema(
    [
        ("row", pa.int64()),
        ("category", pa.string()),
        ("num_bytes", pa.int64()),
        ("num_tokens", pa.int64()),
        ("nats", pa.float64()),
        ("losses", pa.list_(pa.float32())),
    ]
)


class Perplexity(Kind[PerplexityTask]):
    """Bits per byte over documents; a row is {"text": ...}."""

    def item(self, row: Mapping[str, Any], index: int, task: PerplexityTask) -> Item:
        return Item(row=index, category=category_field(row, task), context=text_field(row, "text"))

    def answer(
        self,
        task: PerplexityTask,
        data: TaskData,
        rows: Sequence[int],
        model: LanguageModel,
        *,
        window: int,
    ) -> pa.Table:
        return self.scored(task, [data.items[row] for row in rows], model, window=window)

    def scored(
        self, task: PerplexityTask, chosen: Sequence[Item], model: LanguageModel, *, window: int
    ) -> pa.Table:
        """The log of some documents."""
        tokens = model.tokenise([item.context for item in chosen])
        queries = []
        counts = []
        for item, ids in zip(chosen, tokens, strict=True):
            if max(ids) >= model.vocab_size:
                raise DataError(
                    f"task {task.name}, row {item.row}: the tokenizer gives id {max(ids)}, but the "
                    f"model has {model.vocab_size} ids; take the tokenizer it was trained with"
                )
            windows = _windows(ids, model.document_start, window)
            queries += windows
            counts.append(len(windows))
        scores = iter(model.score(queries))
        entries = []
        for item, ids, count in zip(chosen, tokens, counts, strict=True):
            losses = np.concatenate([next(scores)[0].losses for _ in range(count)])
            if problem := loss_fault(losses):
                raise ModelError(f"task {task.name}, row {item.row}: the model gives {problem}")
            entries.append(
                {
                    "row": item.row,
                    "category": item.category,
                    "num_bytes": len(item.context.encode()),
                    "num_tokens": len(ids),
                    "nats": float(losses.sum(dtype=np.float64)),
                    "losses": losses,
                }
            )
        return pa.Table.from_pylist(entries, schema=LOG)

    def tally(self, task: PerplexityTask, log: pa.Table) -> Tally:
        return bits_per_byte(log)


def bits_per_byte(log: pa.Table) -> Tally:
    """All bits over all bytes, of a log with columns nats and num_bytes."""
    bits = log["nats"].to_numpy() / math.log(2)
    num_bytes = log["num_bytes"].to_numpy().astype(np.float64)
    return Tally(bits, num_bytes, np.zeros(len(bits), dtype=np.int64))


def _windows(ids: Sequence[int], document_start: int, window: int) -> list[Query]:
    read = as_ids([document_start, *ids])
    return [
        Query(read[start : start + 1], (read[start + 1 : start + 1 + window],))
        for start in range(0, len(ids), window)
    ]


KINDS = {"perplexity": Perplexity()}
