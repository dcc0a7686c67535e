"""Methods over the budgets of the scales: crossings with their noise, and the price of a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leaderboard.benchmark import load_stages
from leaderboard.board.boards import Library
from leaderboard.database.store import Store
from leaderboard.published.rows import figure, published_row
from leaderboard.service.over_budgets import MOST_LINES, over_budgets

LADDER = ("400m-1x", "1b-1x", "7b-1x", "7b-2x")
IMAGES = ("small", "medium", "large", "xlarge")
Put = Callable[..., None]


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    yield Library(store)
    store.close()


@pytest.fixture
def put(library: Library) -> Put:
    """Puts a published method with one score for each scale; None: no row there."""

    def put_row(
        method: str,
        scores: tuple[float | None, ...],
        *,
        benchmark: str = "dclm",
        metric: str = "core_v2",
        from_memory: bool = False,
    ) -> None:
        for scale, score in zip(LADDER if benchmark == "dclm" else IMAGES, scores, strict=True):
            if score is None:
                continue
            row = published_row(
                kind="imported",
                benchmark=benchmark,
                scale=scale,
                track="filtering",
                pool="published",
                suite="core",
                suite_version="2",
                method=method,
                headline=metric,
                figures={metric: figure(score)},
                unit="tokens",
                seen=1,
                size=None,
                params=None,
                flops=None,
                source="made up",
                from_memory=from_memory,
            )
            library.store.import_row(row, kind="imported", who="a test", why="a test")

    return put_row


def test_a_planted_crossing_is_said_with_its_budgets(library: Library, put: Put) -> None:
    put("no_filter", (0.10, 0.15, 0.25, 0.30))
    put("filter", (0.20, 0.20, 0.22, 0.23))
    made = over_budgets(library, "dclm")
    [sentence] = made.verdicts
    assert sentence.startswith("filter is ahead below ")
    assert ", no_filter above " in sentence
    assert sentence.endswith("unknown beyond 276G")
    assert "seven identical runs of nanochat" in made.noise
    assert made.svg.count("<polyline") == 2


def test_budgets_are_those_of_the_recipes(library: Library, put: Put) -> None:
    put("no_filter", (0.1, 0.2, 0.3, 0.4))
    stages = load_stages("dclm")
    expected = [float(stages.budget(stages.recipe(scale))) for scale in LADDER]
    made = over_budgets(library, "dclm", names=["no_filter"])
    assert [point.budget for point in made.points["no_filter"]] == expected


def test_no_filter_is_always_one_of_the_lines(library: Library, put: Put) -> None:
    put("no_filter", (0.1, 0.2, None, None))
    for n in range(8):
        put(f"filter {n}", (0.2, 0.2 + n / 100, 0.3, 0.4))
    made = over_budgets(library, "dclm")
    assert next(iter(made.points)) == "no_filter"
    assert len(made.points) == MOST_LINES
    chosen = over_budgets(library, "dclm", names=["filter 3"])
    assert list(chosen.points) == ["no_filter", "filter 3"]
    assert made.plain


def test_without_a_row_of_no_filter_the_page_can_say_so(library: Library, put: Put) -> None:
    put("filter", (0.1, 0.2, 0.3, 0.4))
    made = over_budgets(library, "dclm")
    assert not made.plain
    assert all(not worth.known for worth in made.worth)
    assert made.unpriced == (
        "Of 4 rows of the filtering track that have a budget, the price is unknown of 4 because "
        "there is no row of no_filter with this model"
    )


def test_of_few_budgets_each_is_judged_and_nothing_between(library: Library, put: Put) -> None:
    """The noise known of core is .0052: a gap of .05 is seen, one of .005 is not."""
    put("no_filter", (0.10, 0.200, None, None))
    put("filter", (0.15, 0.205, None, 0.4))
    [sentence] = over_budgets(library, "dclm").verdicts
    assert "filter ahead at 8.23G, not distinguishable at 28.8G tokens" in sentence
    assert "between and beyond these unknown" in sentence
    put("lonely", (None, None, 0.3, None))
    [_, sentence] = over_budgets(library, "dclm", names=["filter", "lonely"]).verdicts[:2]
    assert sentence == "no_filter and lonely have rows at 0 common budgets: unknown"


def test_where_no_noise_is_known_nobody_is_ahead(library: Library, put: Put) -> None:
    put("no_filter", (0.1, 0.2, 0.3, 0.4), benchmark="datacomp", metric="retrieval")
    put("filter", (0.2, 0.3, 0.3, 0.1), benchmark="datacomp", metric="retrieval")
    made = over_budgets(library, "datacomp")
    [sentence] = made.verdicts
    assert sentence.startswith("no_filter and filter: unknown. As printed")
    assert "filter at 12.9M, 128M samples; of neither at 1.28G samples; of no_filter at" in sentence
    assert made.noise.startswith("Nothing is known of the noise of retrieval")


def test_the_price_is_read_between_two_budgets_of_one_model(library: Library, put: Put) -> None:
    """7b-1x and 7b-2x have one model and twice the tokens; halfway in the logarithm is 2 ** .5."""
    put("no_filter", (0.1, 0.2, 0.30, 0.40))
    put("filter", (0.2, 0.3, 0.35, 0.45))
    worth = {entry.scale: entry for entry in over_budgets(library, "dclm").worth}
    assert worth["7b-1x"].known
    assert worth["7b-1x"].sentence.startswith("1.41 [1.")
    assert "times as much unfiltered data" in worth["7b-1x"].sentence
    assert worth["7b-2x"].sentence.startswith("unknown: it is more than all of the budgets")
    for scale in ("400m-1x", "1b-1x"):
        assert worth[scale].sentence == (
            "unknown: no_filter was trained with this model at one budget alone"
        )


def test_a_price_without_known_noise_has_no_interval(library: Library, put: Put) -> None:
    """`small` and `medium` have one model and ten times the samples: halfway is 10 ** .5."""
    put("no_filter", (0.1, 0.3, None, None), benchmark="datacomp", metric="retrieval")
    put("filter", (0.2, None, None, None), benchmark="datacomp", metric="retrieval")
    [worth] = over_budgets(library, "datacomp", names=["filter"]).worth
    assert worth.known
    assert worth.sentence.startswith("3.1")
    assert "; no interval, as nothing is known of the noise between runs" in worth.sentence
    assert "[" not in worth.sentence


def test_a_figure_from_memory_gives_way(library: Library, put: Put) -> None:
    put("no_filter", (0.5, 0.5, 0.5, 0.5), from_memory=True)
    put("no_filter", (0.1, 0.2, None, None))
    scores = [
        p.scores for p in over_budgets(library, "dclm", names=["no_filter"]).points["no_filter"]
    ]
    assert scores == [(0.1,), (0.2,), (0.5,), (0.5,)]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"names": ["nobody"]}, "has the method 'nobody'"),
        ({"metric": "nothing"}, "has a metric 'nothing'"),
        ({"track": "nowhere"}, "has no track nowhere"),
        ({"names": [f"filter {n}" for n in range(MOST_LINES)]}, f"at most {MOST_LINES} curves"),
    ],
)
def test_what_is_not_there_is_named(
    asked: dict[str, str], message: str, library: Library, put: Put
) -> None:
    for name in ("no_filter", *(f"filter {n}" for n in range(MOST_LINES))):
        put(name, (0.1, 0.2, 0.3, 0.4))
    with pytest.raises(KeyError, match=message):
        over_budgets(library, "dclm", **asked)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no benchmark nothing"):
        over_budgets(library, "nothing")


def test_an_empty_board_has_no_curves(library: Library) -> None:
    made = over_budgets(library, "dclm")
    assert (made.points, made.svg, made.verdicts, made.worth) == ({}, "", (), ())
