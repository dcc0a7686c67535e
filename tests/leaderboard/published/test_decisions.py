"""Decision accuracy on tables that can be counted by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from leaderboard.published.decisions import decide, decisions, every_metric, read_ladder
from pipelines.errors import DataError

SMALL = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}


def test_pairs_are_counted() -> None:
    """Of six pairs one is turned round (c and d); e is at one scale only."""
    large = {"a": 0.5, "b": 0.6, "c": 0.8, "d": 0.7, "e": 0.9}
    result = decide(SMALL, large)
    assert (result.num_methods, result.num_pairs) == (4, 6)
    assert result.accuracy == pytest.approx(5 / 6)
    assert result.low <= 5 / 6 <= result.high


def test_the_same_order_is_all_right_and_the_opposite_all_wrong() -> None:
    assert decide(SMALL, SMALL).accuracy == 1.0
    assert decide(SMALL, {name: -value for name, value in SMALL.items()}).accuracy == 0.0


def test_a_tie_is_half_right() -> None:
    assert decide(SMALL, dict.fromkeys(SMALL, 1.0)).accuracy == 0.5


def table(folder: Path, lines: list[str]) -> Path:
    path = folder / "models.csv"
    path.write_text("\n".join(["Dataset,params,tokens,Core,hellaswag", *lines]) + "\n")
    return path


def test_scales_are_ordered_by_compute_and_repeated_runs_are_one(tmp_path: Path) -> None:
    lines = [
        *(f"{n},4e8,8e9,{value},0.25" for n, value in zip("abcd", (1, 2, 3, 4), strict=True)),
        "a,4e8,8e9,9,0.25",  # the median of 1, 9 and 1 is 1
        "a,4e8,8e9,1,0.25",
        *(f"{n},7e9,1.4e11,{value},0.8" for n, value in zip("abcd", (1, 2, 3, 4), strict=True)),
        "a,1e9,2.8e10,1,0.5",
    ]
    core, task = decisions(table(tmp_path, lines), metrics=("Core", "hellaswag"))
    assert (core.small, core.large, core.metric) == ("0.4B on 8B", "7.0B on 140B", "Core")
    assert core.accuracy == 1.0
    assert not core.at_chance
    assert task.at_chance  # four options, all at 0.25
    assert task.accuracy == 0.5


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        DataError, match=r"x\.csv is not a published table of an installed benchmark"
    ):
        decisions(tmp_path / "x.csv")
    with pytest.raises(DataError, match="has no column 'nothing'"):
        decisions(table(tmp_path, ["a,4e8,8e9,1,0.25"]), metrics=("nothing",))


def test_a_loss_of_the_small_scale_predicts_an_accuracy_of_the_large(tmp_path: Path) -> None:
    """Losses fall where accuracies rise: 1, 2, 3, 4 in reverse is the same order."""
    path = tmp_path / "models.csv"
    head = "Dataset,params,tokens,Core,perplexity.hellaswag,text"
    small = [f"{n},4e8,8e9,5,{loss},x" for n, loss in zip("abcd", (4, 3, 2, 1), strict=True)]
    large = [f"{n},7e9,1.4e11,{core},1,x" for n, core in zip("abcd", (1, 2, 3, 4), strict=True)]
    path.write_text("\n".join([head, *small, *large]) + "\n")
    [decision] = decisions(path, metrics=("perplexity.hellaswag",), target="Core")
    assert decision.accuracy == 1.0
    assert decision.cost == pytest.approx(4e8 * 8e9 / (7e9 * 1.4e11))
    names = [decision.metric for decision in every_metric(path)]
    assert names == ["perplexity.hellaswag", "Core"]


def test_the_held_out_half_of_the_methods_falls_within_the_interval() -> None:
    """Methods of one law: what a random half says holds for the other, as often as it claims."""
    rng = np.random.default_rng(8)
    inside = 0
    times = 40
    for _ in range(times):
        skill = rng.normal(0, 1, 72)
        small = {str(n): v + rng.normal(0, 0.8) for n, v in enumerate(skill)}
        large = {str(n): v + rng.normal(0, 0.2) for n, v in enumerate(skill)}
        known = {name: small[name] for name in list(small)[:24]}
        hidden = {name: small[name] for name in list(small)[24:]}
        claim = decide(known, large)
        inside += claim.low <= decide(hidden, large).accuracy <= claim.high
    assert inside >= 0.8 * times


@pytest.mark.parametrize(
    ("name", "number"), [("DCLM_model_database", 240), ("openclip_results", 180)]
)
def test_held_out_halves_of_the_published_runs_fall_within_the_interval(
    name: str, number: int, data: Path
) -> None:
    """Of the real tables: a random half of the datasets states an interval for the other half.

    The other half is a sample, too, of five datasets or so: fewer than 95 of 100 are inside.
    """
    path = data / "history" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"no file {path}")
    ladder = read_ladder(path, (), None)
    rng = np.random.default_rng(1)
    inside = tried = 0
    for small, large in combinations(ladder.scales, 2):
        theirs = ladder.values[large].get(ladder.headline, {})
        own = ladder.values[small].get(ladder.headline, {})
        shared = sorted(set(own) & set(theirs))
        if len(shared) < 7:  # halves of fewer hold no pair to speak of
            continue
        for _ in range(60):
            mixed = rng.permutation(shared).tolist()
            known, hidden = mixed[: len(mixed) // 2 + 1], mixed[len(mixed) // 2 + 1 :]
            claim = decide({n: own[n] for n in known}, theirs)
            truth = decide({n: own[n] for n in hidden}, theirs).accuracy
            inside += claim.low <= truth <= claim.high
            tried += 1
    assert tried == number
    assert inside >= 0.8 * tried
