"""Single questions of a submission, as a person or a program reads them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from leaderboard.database.store import Held
from leaderboard.service.service import Service
from leaderboard.submissions.chain import seeds_of
from pipelines.records import Frozen

SKIPPED = ("shots", "losses", "contexts")
LONG = 2000  # characters of a text that are shown


class QuestionPage(Frozen):
    """Some questions of one task, answered by the model of one seed."""

    submission: str
    task: str
    seed: int
    seeds: tuple[int, ...]
    total: int
    right: int | None
    offset: int
    columns: tuple[str, ...]
    questions: tuple[dict[str, Any], ...]


def page_of(
    service: Service,
    held: Held,
    task: str,
    seed: int | None,
    *,
    wrong: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> QuestionPage:
    """A page of questions. KeyError for a task or seed that is not there, or before the check."""
    if not service.store.rows([held.id]):  # nobody has looked into its files yet
        raise KeyError(f"submission {held.id} has not passed its check; it shows no questions")
    bundle = service.bundle(held)
    by_seed = seeds_of(bundle.record)
    chosen = next(iter(by_seed)) if seed is None else seed
    if chosen not in by_seed:
        raise KeyError(f"there is no seed {chosen}; there are {', '.join(map(str, by_seed))}")
    known = [one.name for one in by_seed[chosen].work.tasks]
    if task not in known:
        raise KeyError(f"there is no task {task!r}; there are {', '.join(known)}")
    table = service.questions(held, chosen, task)
    right = None
    if "correct" in table.column_names:
        right = pc.sum(table["correct"]).as_py() or 0
        if wrong:
            table = table.filter(pc.invert(table["correct"]))
    shown = table.select([name for name in table.column_names if name not in SKIPPED])
    part = shown.slice(offset, limit)
    return QuestionPage(
        submission=held.id,
        task=task,
        seed=chosen,
        seeds=tuple(by_seed),
        total=table.num_rows,
        right=right,
        offset=offset,
        columns=tuple(part.column_names),
        questions=tuple(_plain(part)),
    )


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: _short(value) for name, value in row.items() if value is not None}
        for row in table.to_pylist()
    ]


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONG else value[:LONG] + "..."
    if isinstance(value, bytes):
        return value[:100].hex()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, list):
        return [_short(one) for one in value[:200]]
    if isinstance(value, dict):
        kept = {name: one for name, one in value.items() if name not in ("losses", "greedy", "ids")}
        return {name: _short(one) for name, one in kept.items()}
    return value
