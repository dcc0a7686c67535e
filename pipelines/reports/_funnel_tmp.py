"""x"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.engine.run_folder import RunSummary
from pipelines.records import (
    JSON,
)


def funnel(summary: RunSummary) -> list[Mapping[str, JSON]]:
    """One row per step: rows and bytes in and out, reasons, seconds."""
    return [
        {
            "step": step.number + 1,
            "operator": step.name,
            "kind": step.kind,
            "rows_in": step.rows_in,
            "rows_out": step.rows_out,
            "bytes_in": step.bytes_in,
            "bytes_out": step.bytes_out,
            "words_in": step.words_in,
            "words_out": step.words_out,
            "split": step.split,
            "errors": step.errors,
            "reasons": step.reasons,
            "seconds": summary.seconds.get(str(step.number), 0.0),
        }
        for step in summary.stats.steps
    ]
