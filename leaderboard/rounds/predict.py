"""What `curate --dry-run` prints: what a pipeline is expected to keep and take of a pool."""

from __future__ import annotations

from leaderboard import rules
from pipelines.console import out, show_json
from pipelines.formats.pool import Pool
from pipelines.pipeline import Pipeline
from pipelines.reports.forecast import forecast, forecast_text, share_of
from pipelines.reports.forecast_pairs import forecast_pairs


def show(
    pipeline: Pipeline, pool: Pool, benchmark: str, *, share: str, workers: int, json: bool
) -> None:
    """Run the pipeline over a share of the pool and print the forecast."""
    of_pairs = rules.load_benchmark(benchmark).dataset_format == "uids"
    prediction = (forecast_pairs if of_pairs else forecast)(
        pipeline, pool, fraction=share_of(share), workers=workers
    )
    if json:
        show_json(prediction)
    else:
        out(forecast_text(prediction))
