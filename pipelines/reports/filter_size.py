"""How large a Bloom filter a pool needs: n-grams counted on a sample of its documents."""

from __future__ import annotations

import pyarrow as pa

from pipelines import kernels
from pipelines.batch import text_bytes
from pipelines.console import table
from pipelines.dedup.ngram_bloom import NgramBloomDedup, State
from pipelines.engine.apply import apply
from pipelines.engine.fold import groups_of
from pipelines.execution.progress import short
from pipelines.formats.pool import Pool
from pipelines.formats.sample import Piece, pieces
from pipelines.operators import GLOBAL_KINDS
from pipelines.pipeline import Pipeline, Step
from pipelines.records import Frozen
from pipelines.schema import ROW, TEXT

SAMPLE_SHARDS = 8  # spread over the pool
SAMPLE_BYTES = 32 << 20  # of text, all shards together


class Estimate(Frozen):
    """The n-grams that the largest group of shards of one step (counted from 1) may hold.

    An upper bound in expectation: n-grams are taken to be as new in the whole group as they are in
    the sample, and global steps that are before this one are left out.
    """

    step: int
    sample_rows: int
    sample_bytes: int
    ngrams_per_byte: float  # of pool file
    expected_ngrams: int  # what the pipeline says
    estimated_ngrams: int
    false_positive_rate: float
    filter_bytes: int | None  # that hold the estimate at that rate; None: no filter is so large
    rate_as_written: float  # of false positives, if the estimate comes true

    @property
    def enough(self) -> bool:
        return self.estimated_ngrams <= self.expected_ngrams


def estimates(pipeline: Pipeline, pool: Pool) -> list[Estimate]:
    """One for each ngram_bloom_dedup of a pipeline."""
    return [
        _estimate(pipeline, step, step.operator, pool)
        for step in pipeline.steps
        if isinstance(step.operator, NgramBloomDedup)
    ]


def estimates_text(estimates: list[Estimate]) -> str:
    """The estimates as a table, and what to set where a filter is too small."""
    rows = [
        (
            e.step,
            short(e.expected_ngrams),
            short(e.estimated_ngrams),
            "none is so large" if e.filter_bytes is None else short(e.filter_bytes) + "B",
            e.rate_as_written,
            e.false_positive_rate,
        )
        for e in estimates
    ]
    names = ("step", "expected n-grams", "estimated", "filter needed", "rate as written", "asked")
    lines = [
        f"n-grams of the largest group, from {estimates[0].sample_rows:,} documents "
        f"({short(estimates[0].sample_bytes)}B of text):",
        "",
        table(rows, header=names),
    ]
    for e in estimates:
        if e.filter_bytes is None:
            lines.append(f"step {e.step}: use more groups")
        elif not e.enough:
            lines.append(f"step {e.step}: set expected_ngrams to {e.estimated_ngrams} or more")
    return "\n".join(lines)


def _estimate(pipeline: Pipeline, step: Step, operator: NgramBloomDedup, pool: Pool) -> Estimate:
    before = [s for s in pipeline.steps[: step.number] if s.operator.kind not in GLOBAL_KINDS]
    steps = tuple(Step(n, s.name, s.operator) for n, s in enumerate(before))
    row_wise = Pipeline(pipeline.name, steps, pipeline.modules, assets=pipeline.assets)
    rows, size, ngrams, file_bytes = 0, 0, 0, 0.0
    for piece in pieces(pool, shards=SAMPLE_SHARDS, max_bytes=SAMPLE_BYTES):
        rows += piece.table.num_rows
        size += _text_bytes(piece.table)
        ngrams += _ngrams(piece, row_wise, operator)
        file_bytes += piece.file_bytes
    per_byte = ngrams / file_bytes if file_bytes else 0.0
    groups = groups_of(len(pool.shards), operator.groups)
    largest = max(sum(pool.shards[shard].num_bytes for shard in group) for group in groups)
    estimated = max(1, int(per_byte * largest))
    blocks, hashes = kernels.bloom.size(operator.expected_ngrams, operator.false_positive_rate)
    try:
        needed, _ = kernels.bloom.size(estimated, operator.false_positive_rate)
        filter_bytes = needed * kernels.bloom.BLOCK_BITS // 8
    except ValueError:
        filter_bytes = None
    rate = kernels.bloom.false_positive_rate(estimated, blocks, hashes)
    return Estimate(
        step=step.number + 1,
        sample_rows=rows,
        sample_bytes=size,
        ngrams_per_byte=round(per_byte, 6),
        expected_ngrams=operator.expected_ngrams,
        estimated_ngrams=estimated,
        false_positive_rate=operator.false_positive_rate,
        filter_bytes=filter_bytes,
        rate_as_written=float(f"{rate:.3g}"),
    )


def _ngrams(piece: Piece, row_wise: Pipeline, operator: NgramBloomDedup) -> int:
    """The different n-grams that the step would put in for these rows."""
    columns = piece.table.drop_columns([ROW])
    table = apply(row_wise, columns).table if row_wise.steps else columns
    texts = table.column(TEXT).combine_chunks()
    state = State(kernels.bloom.new_filter(max(1, _text_bytes(table)), 0.001))
    operator.sieve(state, texts)
    return int(state.filter.inserted)


def _text_bytes(table: pa.Table) -> int:
    return sum(text_bytes(part) for part in table.column(TEXT).chunks)
