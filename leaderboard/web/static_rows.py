"""What the script of a static site compares rows by: one JSON file for each row.

The script (`static/compare.js`) computes what `leaderboard.service.side_by_side` does. A task's
interval comes from the answers to its questions instead of their resamples, so its ends differ by
the chance of a thousand draws, about 2%. Answers are packed: most tasks have two values, and take a
bit for each question. A file has at most `MAX_BYTES`: of longer answers the shortest tasks are
kept, and the others are named.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from leaderboard.board.columns import category_parts, centered
from leaderboard.board.paired import GROUP
from leaderboard.board.ranking import group_of
from leaderboard.board.spreads import SeedSpread
from leaderboard.submissions.results import Row

MAX_BYTES = 1 << 20
MOST_LEVELS = 16  # values of answers that are packed; more are written as numbers

Values = npt.NDArray[Any]


def row_file(
    row: Row,
    draws: Mapping[str, Values],
    answers: Mapping[str, Values],
    spreads: Mapping[str, SeedSpread | None],
) -> bytes:
    """The file of a row: `draws` and `spreads` by figure, `answers` by task."""
    group = group_of(row)
    packed, left_out = _bounded({task.task: _answers(task.task, answers) for task in row.tasks})
    content = {
        "id": row.submission_id,
        "method": row.method,
        "word": row.word,
        "team": row.team,
        "seeds": [seed.seed for seed in row.seeds],
        "dataset": row.dataset_id,
        "tries": row.tries or 1,
        "group": hashlib.sha256("\0".join(group).encode()).hexdigest()[:16],
        "of": dict(zip(GROUP, group, strict=True)),
        "figures": [
            {
                "name": name,
                "value": figure.value,
                "values": figure.values,
                "item_error": figure.item_error,
                "higher": figure.higher_is_better,
                "draws": _numbers(draws[name]) if name in draws else None,
                "noise": _noise(row, spreads.get(name)),
            }
            for name, figure in row.figures.items()
        ],
        "categories": _categories(row),
        "tasks": [
            {
                "name": task.task,
                "value": task.value,
                "stderr": task.stderr,
                "higher": task.higher_is_better,
                "answers": packed.get(task.task),
            }
            for task in row.tasks
        ],
        "left_out": left_out,
    }
    return orjson.dumps(content)


def _noise(row: Row, spread: SeedSpread | None) -> dict[str, Any] | None:
    """How a score varies between runs, and what of that the data of this row adds."""
    if spread is None:
        return None
    return {
        "variance": spread.variance,
        "freedom": spread.freedom,
        "data": [[name, *part] for name, part in spread.of_row(row).items()],
    }


def _categories(row: Row) -> list[dict[str, Any]]:
    parts = category_parts(row.tasks)
    if len(parts) < 2:
        return []
    return [
        {
            "name": name,
            "value": sum(map(centered, tasks)) / len(tasks),
            "tasks": [task.task for task in tasks],
            "scales": [
                1 / (1 - guess) if (guess := task.random_baseline or 0.0) < 1 else 1.0
                for task in tasks
            ],
        }
        for name, tasks in parts.items()
    ]


def _answers(task: str, answers: Mapping[str, Values]) -> dict[str, Any] | None:
    """What each question adds to a task, and which questions, where these are not 0, 1, 2, ..."""
    values = answers.get(task)
    if values is None:
        return None
    packed = _packed(values)
    numbers = answers.get(f"{task}/numbers")
    return packed if numbers is None else packed | {"numbers": numbers.tolist()}


def _packed(values: Values) -> dict[str, Any]:
    high = values.max()
    upper = values == high
    if bool((upper | (values == 0)).all()):
        levels, codes = [0.0, float(high)], upper.astype(np.uint8)
    else:
        unique, codes = np.unique(values, return_inverse=True)
        if len(unique) > MOST_LEVELS:
            return {"number": len(values), "floats": _numbers(values)}
        levels = unique.tolist()
    width = max(1, (len(levels) - 1).bit_length())
    bits = (codes.astype(np.uint8)[:, None] >> np.arange(width, dtype=np.uint8)) & 1
    data = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little").tobytes()
    return {
        "number": len(values),
        "levels": levels,
        "width": width,
        "codes": base64.b64encode(data).decode(),
    }


def _numbers(values: Values) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _bounded(
    packed: Mapping[str, dict[str, Any] | None],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The answers that a file holds, the shortest first, and the names of the other tasks."""
    sizes = {name: len(orjson.dumps(own)) for name, own in packed.items() if own is not None}
    kept: dict[str, dict[str, Any]] = {}
    left_out = []
    total = 0
    for name in sorted(sizes, key=lambda task: (sizes[task], task)):
        own = packed[name]
        total += sizes[name]
        if own is not None and total <= MAX_BYTES:
            kept[name] = own
        else:
            left_out.append(name)
    return kept, left_out
