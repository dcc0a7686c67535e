"""Why a step that looks at the whole pool dropped a row: its score and the cut, or its copy."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.engine.evidence import Evidence
from pipelines.engine.run_folder import RunSummary
from pipelines.global_steps.duplicate_record import DUPLICATES
from pipelines.global_steps.similarity import COMPARED
from pipelines.job import Plan, loaded
from pipelines.operators import Dedup, Select, SpanDedup
from pipelines.pipeline import Step
from pipelines.reports.try_document import batch_before
from pipelines.selection import SelectBy
from pipelines.storage.base import Store
from pipelines.verdict import NO_CUT, score_of_bits

STATS = "stats.json"


def kept_copy(store: Store, step: Step, row: int) -> tuple[int, float | None] | None:
    """The row that stays for one that a deduplication dropped, and their similarity if compared.

    Of a document that lost several lines or spans, the row that has the first of them.
    """
    pairs = []
    for entry in store.list(f"{DUPLICATES}/{step.number:03d}-"):
        with store.open(entry.name) as file:
            table = pq.read_table(file, filters=pc.field("row") == row)
        pairs += table.select(["unit", "kept_row"]).to_pylist()
    if not pairs:
        return None
    kept = min(pairs, key=lambda pair: int(pair["unit"]))["kept_row"]
    operator = step.operator
    by_shard = not (isinstance(operator, Dedup) and operator.pairwise)  # those are by part
    for entry in store.list(f"{COMPARED}/{step.number:03d}-{f'{row >> 32:05d}' * by_shard}"):
        with store.open(entry.name) as file:
            chosen = (pc.field("row") == row) & (pc.field("other") == kept)
            table = pq.read_table(file, filters=chosen)
        if table.num_rows:
            return kept, float(table["similarity"][0].as_py())
    return kept, None


def cut_evidence(store: Store, plan: Plan, step: Step, row: int) -> Evidence | None:
    """The score of a row that a Select dropped and the cut; None where they cannot be known again.

    Rows above the cut stay, and of those at it as many as there is room for. Both are unknown where
    the pool was removed, or a step before changed texts over the whole pool.
    """
    operator = step.operator
    assert isinstance(operator, Select)
    pipeline = plan.pipeline()
    batch = batch_before(store, pipeline.steps[: step.number], row, pipeline.assets)
    verdicts = RunSummary.model_validate_json(store.read_bytes(STATS)).verdicts
    known = verdicts.get(str(step.number))
    if batch is None or known is None:
        return None
    bits = int(known["threshold_bits"])
    selecting = loaded(step, pipeline.assets)
    assert isinstance(selecting, Select)
    score = float(np.asarray(selecting.score(batch), np.float64).max())  # of its best copy
    sign = -1 if isinstance(operator, SelectBy) and operator.lowest else 1
    return Evidence(
        value=None if np.isnan(score) else sign * score + 0.0,  # never -0
        limit=None if bits == NO_CUT else sign * score_of_bits(bits) + 0.0,
    )


def least_similarity(step: Step) -> float | None:
    """The similarity that a deduplication asks of copies, where it checks them."""
    operator = step.operator
    if not isinstance(operator, Dedup) or isinstance(operator, SpanDedup):
        return None
    return operator.min_similarity()
