"""The pages about deciding: speedruns, and methods over the budgets of the scales."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from leaderboard.board.describe import number
from leaderboard.service.over_budgets import MOST_LINES, OverBudgets
from leaderboard.service.speedruns import Track
from leaderboard.web.links import Links
from leaderboard.web.views import benchmark_title, render


def speedruns_page(benchmark: str, tracks: Sequence[Track], link: Links) -> str:
    """Each scale's speedrun: who reaches the target first, and the curves."""
    title = benchmark_title(benchmark)
    shown = [(track, Markup(track.svg)) for track in tracks]
    return render("speedruns.html", link, benchmark=benchmark, title=title, tracks=shown)


def crossings_page(
    benchmark: str, curves: OverBudgets, names: Sequence[str], track: str, link: Links
) -> str:
    """Methods over the budgets of the scales: who is ahead where, and what a filter is worth."""
    return render(
        "crossings.html",
        link,
        benchmark=benchmark,
        title=benchmark_title(benchmark),
        curves=curves,
        plot=Markup(curves.svg),
        chosen=list(curves.points),
        prices={
            entry.row.submission_id: number(entry.times, 2) if entry.times else "unknown"
            for entry in curves.worth
        },
        names=names,
        track=track,
        most=MOST_LINES - 1,
    )
