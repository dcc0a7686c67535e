"""Mean loss over sequences of token ids that were cut and masked beforehand (OpenLM's format).

A file is a tar of JSON lists of ids, made with one tokenizer: only models with that tokenizer can
be measured. Two ids above the tokenizer's own are marks: nothing up to the last `mask_left` is
scored and the mark itself is taken out; `mask_single` (padding) is never scored. The score is the
mean cross-entropy in nats over all scored tokens; DCLM calls it perplexity, but takes no
exponential.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from evals.items import Item, Tally, TaskData
from evals.kinds import Kind
from evals.models import Ids, LanguageModel, ModelError, Query, loss_fault
from evals.tasks import TokenLossTask
from evals.text.prompts import as_ids
from pipelines.errors import DataError

LOG = pa.schema([("row", pa.int64()), ("num_tokens", pa.int64()), ("nats", pa.float64())])


def mask_sequence(
    ids: Sequence[int], *, mask_left: int | None, mask_single: int | None, take_out: bool = True
) -> tuple[Ids, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The ids as they are fed, and for each of them whether it is scored; the first never is."""
    fed = as_ids(ids)
    scored = np.ones(len(fed), dtype=bool)
    scored[0] = False
    if mask_left is not None:
        marks = np.flatnonzero(fed == mask_left)
        if len(marks):
            scored[: marks[-1] + 1] = False
    if mask_single is not None:
        scored &= fed != mask_single
    if mask_left is not None and take_out:
        keep = fed != mask_left
        fed, scored = fed[keep], scored[keep]
        scored[:1] = False
    return fed, scored


class TokenLoss(Kind[TokenLossTask]):
    """Nats per token over masked sequences; a row is {"ids": [...]}."""

    def item(self, row: Mapping[str, Any], index: int, task: TokenLossTask) -> Item:
        ids = row.get("ids")
        if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
            raise DataError("the sequence should be a list of ids, 0 or more")
        if len(ids) < 2:
            raise DataError(f"the sequence has {len(ids)} ids; at least two are needed")
        return Item(row=index, ids=tuple(ids))

    def answer(
        self,
        task: TokenLossTask,
        data: TaskData,
        rows: Sequence[int],
        model: LanguageModel,
        *,
        window: int,
    ) -> pa.Table:
        sequences = [
            mask_sequence(
                data.items[row].ids, mask_left=task.mask_left, mask_single=task.mask_single
            )
            for row in rows
        ]
        queries = []
        for row, (fed, scored) in zip(rows, sequences, strict=True):
            where = f"task {task.name}, row {data.items[row].row}"
            if len(fed) > window + 1:
                raise DataError(f"{where}: {len(fed)} ids do not fit in a window of {window}")
            if len(fed) and fed.max() >= model.vocab_size:
                raise DataError(
                    f"{where}: id {fed.max()} is not in the model's vocabulary of "
                    f"{model.vocab_size}; these sequences are for another tokenizer"
                )
            if scored.any():
                first, last = np.flatnonzero(scored)[[0, -1]]
                queries.append(Query(fed[:first], (fed[first : last + 1],)))
        scores = iter(model.score(queries))
        entries = []
        for row, (_, scored) in zip(rows, sequences, strict=True):
            nats = 0.0
            if scored.any():
                first, last = np.flatnonzero(scored)[[0, -1]]
                losses = next(scores)[0].losses[scored[first : last + 1]]
                if problem := loss_fault(losses):
                    raise ModelError(
                        f"task {task.name}, row {data.items[row].row}: the model gives {problem}"
                    )
                nats = float(losses.sum(dtype=np.float64))
            entries.append(
                {"row": data.items[row].row, "num_tokens": int(scored.sum()), "nats": nats}
            )
        return pa.Table.from_pylist(entries, schema=LOG)

    def tally(self, task: TokenLossTask, log: pa.Table) -> Tally:
        num_tokens = log["num_tokens"].to_numpy().astype(np.float64)
        return Tally(log["nats"].to_numpy(), num_tokens, np.zeros(len(log), dtype=np.int64))


KINDS: dict[str, Kind[TokenLossTask]] = {"token_loss": TokenLoss()}
