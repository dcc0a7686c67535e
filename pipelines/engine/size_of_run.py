"""The size of a sample taken from a finished run: `--same-size-as RUN`."""

from __future__ import annotations

from pipelines.errors import PipelineError
from pipelines.pipeline import Pipeline
from pipelines.records import DatasetRecord, parse_record
from pipelines.selection import HashSample
from pipelines.storage.chain import RECORD
from pipelines.storage.open import open_store


def with_size_of(pipeline: Pipeline, run_uri: str) -> Pipeline:
    """The pipeline with the size of a finished run in every hash_sample that has none.

    PipelineError when the record there is not a dataset's, or lacks the count.
    """
    where = f"{run_uri}/{RECORD}"
    record = parse_record(open_store(run_uri).read_bytes(RECORD), source=where)
    if not isinstance(record, DatasetRecord):
        raise PipelineError(f"{where} is a {record.kind} record; expected a dataset")
    for step in pipeline.steps:
        operator = step.operator
        if isinstance(operator, HashSample) and operator.pending():
            unit = "rows_out" if operator.of == "rows" else operator.of
            if unit not in record.counts:
                raise PipelineError(
                    f"{where} does not count {unit!r}; it counts {', '.join(record.counts)}"
                )
            sized = operator.model_copy(update={"total": record.counts[unit]})
            pipeline = pipeline.replace(step.number, sized)
    return pipeline
