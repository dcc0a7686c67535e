"""A board as JSON, CSV and as a table in the terminal."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence

import orjson

from leaderboard.submissions.results import Row
from pipelines.execution.progress import short

CSV_COLUMNS = (
    "benchmark",
    "scale",
    "track",
    "pool_id",
    "suite",
    "suite_version",
    "rank",
    "tied_with_leader",
    "method",
    "team",
    "submission_id",
    "metric",
    "value",
    "stderr",
    "size",
    "size_unit",
    "seen",
    "budget_unit",
    "seeds",
)


MORE_COLUMNS = ("kind", "recheck", "params", "flops", "date", "behind_leader", "over_baseline")
LAST_COLUMNS = ("from_memory", "source", "same_result", "word", "evaluations")


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def board_json(rows: Sequence[Row]) -> bytes:
    """The rows as a JSON list."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps([row.model_dump(mode="json") for row in rows], option=options)


def board_csv(rows: Sequence[Row]) -> str:
    """One line per row; after the common columns one per aggregate and one per task."""
    tasks = list(dict.fromkeys(task.task for row in rows for task in row.tasks))
    figures = list(dict.fromkeys(name for row in rows for name in row.figures))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            *CSV_COLUMNS,
            *tasks,
            *MORE_COLUMNS,
            *(f"figure:{name}" for name in figures),
            *LAST_COLUMNS,
        ]
    )
    for row in rows:
        values = {task.task: task.value for task in row.tasks}
        writer.writerow(
            [
                row.benchmark,
                row.scale,
                row.track,
                row.pool_id,
                row.suite,
                row.suite_version,
                row.rank,
                row.tied_with_leader,
                _text(row.method),
                _text(row.team),
                row.submission_id,
                row.headline.metric,
                row.headline.value,
                row.headline.stderr,
                row.dataset.size,
                row.dataset.unit,
                row.budget.seen,
                row.budget.unit,
                " ".join(str(seed.seed) for seed in row.seeds),
                *(values.get(task) for task in tasks),
                row.kind,
                row.recheck,
                row.params,
                row.flops,
                _text(row.date),
                row.behind_leader.value if row.behind_leader else None,
                row.over_baseline.value if row.over_baseline else None,
                *(row.figures[name].value if name in row.figures else None for name in figures),
                row.from_memory,
                _text(row.source),
                " ".join(row.same_result),
                _text(row.word),
                row.evaluations,
            ]
        )
    return file.getvalue()


def _text(value: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    folded = unicodedata.normalize("NFKC", value).lstrip()
    return f"'{value}" if folded.startswith(FORMULA) else value


def board_table(rows: Sequence[Row]) -> tuple[list[str], list[list[object]]]:
    """The board for a terminal: header and cells; rows without a rank have a dash."""
    from leaderboard.board.describe import behind, metric_name

    header = ["rank", "method", "score", "stderr", "behind the leader (95%)", "dataset", "seeds"]
    cells: list[list[object]] = []
    for row in rows:
        stderr = row.headline.stderr
        cells.append(
            [
                f"{row.rank}{' (tie)' if row.tied_with_leader else ''}" if row.rank else "-",
                row.method,
                f"{row.headline.value:.4f} {metric_name(row)}",
                "-" if stderr is None else f"{stderr:.4f}",
                "superseded by more seeds" if row.superseded_by else behind(row),
                f"{short(row.dataset.size or 0)} {row.dataset.unit}",
                len(row.seeds),
            ]
        )
    return header, cells
