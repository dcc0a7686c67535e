"""What programs read of a board, as JSON and CSV: functions of a service that can be pickled.

KeyError for what is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlencode

import orjson

from leaderboard.board.boards import View
from leaderboard.board.formats import board_csv
from leaderboard.board.ranking import compare
from leaderboard.board.spreads import seed_spread
from leaderboard.database.states import StoredSubmission
from leaderboard.service.service import Service


class FormattedView(View):
    """A view of a board, and how it is written."""

    format: Literal["json", "csv"] = "json"


def board_as(service: Service, board: tuple[str, str, str], view: FormattedView) -> bytes:
    """A board: a page of it as JSON, or all of it as CSV."""
    if view.format == "csv":
        return board_csv(service.library.page(*board, view, whole=True).rows).encode()
    page = service.library.page(*board, view)
    content = page.model_dump(mode="json")
    more = view.offset + view.limit < page.total
    query = view.model_dump(exclude_defaults=True) | {"offset": view.offset + view.limit}
    content["next"] = urlencode(query) if more else None
    return orjson.dumps(content)


def row_json(service: Service, submission: StoredSubmission) -> bytes:
    """The row of one submission, with its rank where it has one."""
    id_ = submission.id
    row = service.library.row(id_) or next(iter(service.store.rows([id_])), None)
    if row is None:
        raise KeyError(f"submission {id_} has no scores: it is {submission.state}")
    return orjson.dumps(row.model_dump(mode="json"))


def compared_json(service: Service, ids: Sequence[str], metric: str) -> bytes:
    """Rows, and the difference of each to the first."""
    rows = []
    for id_ in ids:
        row = service.library.row(id_, metric)
        if row is None:
            raise KeyError(f"there is no accepted submission {id_}")
        rows.append(row)
    name = metric or rows[0].headline.metric
    if any(name not in row.figures for row in rows):
        raise KeyError(f"not all of these have a metric {name!r}")
    draws = [service.library.resamples(row, name) for row in rows]
    spread = seed_spread(rows, name)
    compared: list[dict[str, Any]] = [
        {"row": rows[0].model_dump(mode="json"), "behind_first": None}
    ]
    for row, values in zip(rows[1:], draws[1:], strict=True):
        apart = compare(rows[0], row, name, draws[0], values, spread)
        behind = apart.model_dump() if apart is not None else None
        compared.append({"row": row.model_dump(mode="json"), "behind_first": behind})
    return orjson.dumps(compared)
