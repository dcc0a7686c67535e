"""What a board says in words: the verdict sentence, differences, the funnel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from leaderboard.submissions.chain import chain_of
from leaderboard.submissions.honesty import USED
from leaderboard.submissions.results import Difference, Row
from pipelines.records import Control, Submission


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def spread(value: Difference | None) -> str:
    """A difference with its interval."""
    if value is None:
        return "not known"
    return f"{value.value:+.4f} [{value.low:+.4f}, {value.high:+.4f}]"


def behind(row: Row) -> str:
    """How far a row is behind the leader, with its interval."""
    if row.rank == 1:
        return "leads"
    if row.behind_leader is None:
        return "not known"
    gap = row.behind_leader
    return f"{gap.value:.4f} [{gap.low:.4f}, {gap.high:.4f}]"


def words(name: str) -> str:
    return name.replace("_", " ")


ONE_SEED = (
    "A row with one seed is taken to vary between training runs as the rows with several do, or as "
    "the rule book measured, and is ranked by the worse end of its interval."
)


MOST_NAMED, MOST_LETTERS = 3, 60  # methods that a verdict names: it stays within two lines


def verdict(rows: Sequence[Row]) -> str:
    """Who is ahead, and whether to believe it, in a line or two. Superseded rows do not count."""
    rows = [row for row in rows if not row.superseded_by] or rows[:1]
    leader, others = rows[0], rows[1:]
    return verdict_of(
        leader.method,
        [(row.method, row.tied_with_leader) for row in others],
        fewest_seeds=min(len(row.seeds) for row in rows),
        ranked=leader.ranked,
    )


def verdict_of(
    leader: str,
    others: Sequence[tuple[str, bool | None]],
    *,
    fewest_seeds: int,
    ranked: bool,
) -> str:
    """`verdict` from names, and whether each of the others is tied with the leader."""
    if not others:
        return f"{leader} is the only entry; there is nothing to compare it with yet."
    ties = [method for method, tied in others if tied]
    beaten = sum(tied is False for _, tied in others)
    unknown = sum(tied is None for _, tied in others)
    lines = [f"{leader} is ahead of {beaten} of {len(others)} others."]
    if ties:
        short = len(ties) <= MOST_NAMED and sum(map(len, ties)) <= MOST_LETTERS
        names = f": {_and(ties)}" if short else ""
        lines.append(f"It is not distinguishable from {len(ties)}{names}.")
    if unknown:
        lines.append(f"Of {unknown} no error is published, so nothing is known.")
    if fewest_seeds == 1 and beaten:
        lines.append(ONE_SEED)
    if not ranked:
        lines.append("This scale is a proxy: its rows are not ranked.")
    return lines[0] + "".join(f" {line}" for line in lines[1:])


def verdict_in_short(rows: Sequence[Row]) -> str:
    """How far the leader is ahead, in numbers alone. Superseded rows do not count."""
    others = [row for row in rows if not row.superseded_by][1:]
    if not others:
        return "The only entry."
    beaten = sum(row.tied_with_leader is False for row in others)
    ties = sum(bool(row.tied_with_leader) for row in others)
    unknown = len(others) - beaten - ties
    if unknown == len(others):
        number = "1 other" if len(others) == 1 else f"{len(others)} others"
        return f"No errors are published, so {number} may be as good."
    parts = [f"Ahead of {beaten} of {len(others)}"]
    if ties:
        parts.append(f"not distinguishable from {ties}")
    if unknown:
        parts.append(f"not known for {unknown}")
    return "; ".join(parts) + "."


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def metric_name(row: Row) -> str:
    better = "higher" if row.headline.higher_is_better else "lower"
    return f"{words(row.headline.metric)} ({better} is better)"


def still_there(record: Submission) -> str:
    """How many of the pool's images were there when they were fetched, and why others were not.

    Links rot, so two participants train on different parts of one pool. Empty where it is not
    recorded.
    """
    packed = chain_of(record)["packed"][0]
    image_results = packed.results.get("pictures") if isinstance(packed.results, dict) else None
    counts = image_results.get("counts") if isinstance(image_results, dict) else None
    if not isinstance(counts, dict) or not counts.get("rows"):
        return ""
    rows, there = int(counts["rows"]), int(counts.get("success", 0))
    lost = sorted(
        ((int(n), name.removeprefix("failed/")) for name, n in counts.items() if "/" in name),
        reverse=True,
    )
    why = "".join(f", {name} {number:,}" for number, name in lost)
    return f"{there:,} of the pool's {rows:,} images were there ({there / rows:.1%}){why}."


def funnel(dataset: Any) -> list[dict[str, Any]]:
    """Rows in and out of every step, with the reasons; None where a step makes rows."""
    counts: Mapping[str, int] = dataset.counts
    by_step: dict[int, list[tuple[str, int]]] = {}
    for name, lost in counts.items():
        if name.startswith("rejected/"):
            _, step, _, reason = name.split("/", 3)
            by_step.setdefault(int(step), []).append((reason, lost))
    steps = dataset.work.pipeline.get("steps", [])
    left: int | None = counts.get("rows_in")
    sure = left is not None and left - sum(
        lost for reasons in by_step.values() for _, lost in reasons
    ) - counts.get("errors", 0) == counts.get("rows_out")
    funnel_steps = []
    for number in range(0 if 0 in by_step else 1, len(steps) + 1):
        asked_for: Any = steps[number - 1] if number else "reading"
        lost = sum(number_ for _, number_ in by_step.get(number, []))
        after = left - lost if sure and left is not None else None
        name, parameters = _named(asked_for)
        funnel_steps.append(
            {
                "step": number,
                "operator": name,
                "parameters": parameters,
                "rows_in": left if sure else None,
                "rows_out": after,
                "reasons": by_step.get(number, []),
            }
        )
        left = after
    return funnel_steps


def _named(step: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(step, str):
        return step, {}
    if "operator" in step:
        return str(step["operator"]), step.get("parameters", {})
    [(name, parameters)] = step.items()
    return str(name), parameters or {}


def pipeline_yaml(pipeline: Mapping[str, Any]) -> str:
    """The pipeline as a file that the commands read."""
    steps: list[Any] = []
    for step in pipeline.get("steps", []):
        name, parameters = _named(step)
        steps.append({name: dict(parameters)} if parameters else name)
    rest = {name: value for name, value in pipeline.items() if name not in ("name", "steps")}
    document = {"name": pipeline.get("name", "pipeline"), **rest, "steps": steps}
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    return text


def control_meaning(control: Control) -> str:
    """What a control says of a score, in a few words."""
    if control.name == "options rotated":
        return "depends on the order" if control.low > 0 else "does not depend on the order"
    what = USED.get(control.name, "image")
    return f"uses the {what}" if control.low > 0 else f"this score does not use the {what}"
