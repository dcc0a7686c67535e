"""The pages as text: pure functions from rows to HTML. The service and the static site use both.

A `Links` says where things are: at the service's addresses, or in neighbouring files. Every
text that somebody submitted is escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from leaderboard import rules
from leaderboard.board.boards import Page, View
from leaderboard.board.columns import task_columns
from leaderboard.board.describe import (
    ONE_SEED,
    behind,
    control_meaning,
    metric_name,
    number,
    spread,
    words,
)
from leaderboard.board.plots import history
from leaderboard.board.predictors import predictions, subset
from leaderboard.board.predictors import verdict as verdict_of_predictors
from leaderboard.database.states import Change, StoredSubmission, shown
from leaderboard.service.evidence import Evidence
from leaderboard.service.nearest import NearDocuments
from leaderboard.service.questions import QuestionPage
from leaderboard.service.side_by_side import Comparison
from leaderboard.service.training_curves import Crossings, Race
from leaderboard.submissions.novelty import Notice
from leaderboard.submissions.results import Row
from leaderboard.web.figures import (
    forests,
    over_scales,
    plots_of,
    size_plot,
    task_bars,
    training_curve,
)
from leaderboard.web.help import topics
from leaderboard.web.links import Links
from leaderboard.web.question_view import questions_of
from pipelines.errors import RuleError
from pipelines.execution.progress import short
from pipelines.installed import packages
from pipelines.templates import templates

# ---- how things read


@cache
def _templates() -> Environment:
    pages = templates("leaderboard.web", strict=False)
    pages.filters |= {
        "short": lambda value: "-" if value is None else short(value),
        "behind": behind,
        "meaning": control_meaning,
        "number": number,
        "spread": spread,
        "words": words,
        "soft": soft,
        "state": shown,
        "when": when,
        "stamp": stamp,
    }
    return pages


def soft(text: str) -> Markup:
    """A text that may break behind the joints of its names, and nowhere inside a word."""
    escaped = str(escape(text))
    for joint in ("_", "-", "/"):
        escaped = escaped.replace(joint, f"{joint}<wbr>")
    return Markup(escaped)


def stamp(seconds: float) -> str:
    """A time as feeds want it: 2026-11-23T10:15:00Z."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def when(seconds: float) -> str:
    """A time as 2026-11-23 10:15 UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def render(template: str, link: Links, **values: Any) -> str:
    """A page from its template; all text in it is escaped."""
    values.setdefault("asks", None)
    return _templates().get_template(template).render(link=link, **values)


# ---- boards


def benchmark_title(name: str) -> str:
    try:
        return rules.load_benchmark(name).title
    except RuleError:
        return name


def question_of(name: str) -> str:
    """What a benchmark asks, as its rule book says it; empty where it is not installed."""
    try:
        return rules.load_benchmark(name).description
    except RuleError:
        return ""


def is_scale(benchmark: str, scale: str) -> bool:
    """Whether the rule book has a scale of this name."""
    try:
        return scale in [rule.name for rule in rules.load_benchmark(benchmark).scales]
    except RuleError:
        return False


def described(benchmark: str, scale: str, track: str) -> dict[str, str]:
    """What the rule book says of a board; empty texts for what it does not know."""
    descriptions: dict[str, str] = {
        "title": benchmark_title(benchmark),
        "scale": "",
        "track": "",
        "budget": "",
        "speedrun": "",
    }
    try:
        book = rules.load_benchmark(benchmark)
    except RuleError:
        return descriptions
    descriptions["scale"] = next(
        (scale_rule.note for scale_rule in book.scales if scale_rule.name == scale), ""
    )
    if scale not in [scale_rule.name for scale_rule in book.scales]:
        descriptions["scale"] = "Not a scale of the rule book: only published results are listed."
    for track_rule in book.tracks:
        if track_rule.name == track:
            descriptions["track"] = track_rule.description
            descriptions["speedrun"] = "yes" if track_rule.speedrun else ""
    return descriptions


def front_page(benchmarks: Sequence[Mapping[str, Any]], link: Links) -> str:
    """A summary of each benchmark: its boards' leaders, one chart, one answer."""
    return render("index.html", link, benchmarks=benchmarks)


def search_page(q: str, rows: Sequence[Row], total: int, link: Links) -> str:
    """Rows of all boards whose method or team has these letters."""
    return render("search.html", link, q=q, rows=rows, total=total)


COLUMNS = (
    ("rank", "Rank", True),
    ("method", "Method", False),
    ("score", "Score", True),
    ("stderr", "± error", True),
    ("forest", "95% interval", False),
    ("behind", "Behind the leader", False),
    ("baseline", "Better than no_filter", False),
    ("size", "Dataset", True),
    ("kept", "Rows kept", True),
    ("compute", "FLOPs", True),
    ("evaluations", "Evaluations a sample", True),
    ("seeds", "Seeds", True),
    ("date", "Date", False),
    ("notes", "Notes", False),
)
UNSORTED = ("forest", "evaluations", "notes")
MOST_GRIDS = 6  # of samples on a board: the first rows
SAME: Mapping[
    str, Callable[[Row], Any]
] = {  # columns that are hidden when every row says the same, and how the caption says it
    "size": lambda row: (
        row.dataset.size and f"dataset {short(row.dataset.size)} {row.dataset.unit}"
    ),
    "kept": lambda row: row.kept_fraction is not None and f"{row.kept_fraction:.1%} of rows kept",
    "compute": lambda row: row.flops and f"{row.flops:.2e} FLOPs",
    "evaluations": lambda row: (
        row.evaluations is not None and f"{row.evaluations:g} evaluations for a restored sample"
    ),
    "seeds": lambda row: f"{len(row.seeds)} {'seed' if len(row.seeds) == 1 else 'seeds'} each",
    "date": lambda row: row.date and f"of {row.date}",
}


def constant(rows: Sequence[Row]) -> dict[str, str]:
    """The columns that hold one value or nothing, with what the caption says of them."""
    hidden = {}
    for name, said in SAME.items():
        values = {said(row) or "" for row in rows}
        if len(values) == 1 and (len(rows) > 1 or values == {""}):
            hidden[name] = values.pop()
    kinds = {row.kind for row in rows}
    if len(kinds) == 1 and kinds != {"submission"} and not any(_noted(row) for row in rows):
        hidden["notes"] = f"{kinds.pop()}, not rechecked"
    if not any(row.over_baseline for row in rows):
        hidden["baseline"] = ""
    if all(row.headline.stderr is None for row in rows):
        hidden |= {"stderr": "", "forest": ""}
    return hidden


def _noted(row: Row) -> bool:
    return bool(row.from_memory or row.same_result or not row.ranked or row.overlap)


def board_page(page: Page, view: View, link: Links) -> str:
    """One board: filters, rows, plot."""
    board_key = (page.benchmark, page.scale, page.track)
    rows = page.rows
    query = view.model_dump(exclude_defaults=True)
    plain = {
        name: value for name, value in query.items() if name not in ("offset", "sort", "order")
    }
    headers: list[dict[str, Any]] = []
    hidden = constant(rows) if rows else {}
    if view.columns:  # they need the room
        hidden |= {name: hidden.get(name, "") for name in ("forest", "behind", *SAME, "notes")}
    for name, title, right in COLUMNS:
        if name in hidden:
            continue
        if name in UNSORTED:
            headers.append({"title": title, "right": right, "address": "", "sorted": None})
            continue
        turned = view.sort == name and _ascending(view, name, rows)
        address = link.board(*board_key, **plain, sort=name, order="down" if turned else "up")
        state = ("ascending" if turned else "descending") if view.sort == name else None
        headers.append({"title": title, "right": right, "address": address, "sorted": state})
    names, cells = task_columns(rows, view.columns)
    for name in names:
        sortable = view.columns == "tasks"
        address = link.board(*board_key, **plain, sort=name) if sortable else ""
        state = "descending" if view.sort == name else None
        headers.append({"title": words(name), "right": True, "address": address, "sorted": state})
    ranked = sorted(rows, key=lambda row: (not row.rank, row.rank))
    whole = not any((view.q, view.recheck, view.kind, view.since, view.until, view.offset))
    sentence = whole and view.sort == "rank"
    return render(
        "board.html",
        link,
        page=page,
        view=view,
        place=board_key,
        about=described(*board_key),
        headers=headers,
        rows=rows,
        hidden=hidden,
        names=names,
        cells=cells,
        same=[text for text in hidden.values() if text],
        forests=forests(rows) if rows else {},
        first=rows[0] if rows else None,
        verdict=page.verdict.replace(f" {ONE_SEED}", "") if sentence else "",
        seed_note=ONE_SEED if sentence and ONE_SEED in page.verdict else "",
        plot=size_plot(ranked, link) if ranked else "",
        grids=[row for row in ranked if row.shows_images][:MOST_GRIDS],
        query=query,
        plain=plain,
        pages=_pages(page, view, link, board_key, query),
    )


def _ascending(view: View, name: str, rows: Sequence[Row]) -> bool:
    if view.order:
        return view.order == "up"
    if name == "score":
        return bool(rows) and not rows[0].headline.higher_is_better
    return name in ("rank", "method", "team", "stderr", "behind")


def _pages(
    page: Page, view: View, link: Links, board_key: tuple[str, str, str], query: Mapping[str, Any]
) -> dict[str, Any]:
    before, after = view.offset - view.limit, view.offset + view.limit
    rest = {name: value for name, value in query.items() if name != "offset"}
    return {
        "first": view.offset + 1,
        "last": min(after, page.total),
        "before": link.board(*board_key, **rest, offset=max(0, before)) if view.offset else "",
        "after": link.board(*board_key, **rest, offset=after) if after < page.total else "",
    }


def plots_page(page: Page, view: View, link: Links, *, race: Race | None = None) -> str:
    """The plots of one board, each with its numbers underneath."""
    rows = sorted(page.rows, key=lambda row: row.rank)
    board_key = (page.benchmark, page.scale, page.track)
    dated = sorted((row for row in rows if row.date), key=lambda row: (row.date, -row.rank))
    return render(
        "plots.html",
        link,
        page=page,
        view=view,
        place=board_key,
        about=described(*board_key),
        rows=rows,
        race=race,
        plots=[(plot, Markup(plot.svg)) for plot in plots_of(rows, link)] if rows else [],
        history=history(
            [(row.date, row.headline.value, row.method) for row in dated],
            axis=metric_name(rows[0]),
            higher_is_better=rows[0].headline.higher_is_better,
            addresses=[link.submission(row.submission_id) for row in dated],
        )
        if len({row.date for row in dated}) > 1
        else "",
        dated=dated,
    )


# ---- submissions


def submission_page(
    row: Row | None,
    submission: StoredSubmission,
    evidence: Evidence | None,
    rivals: Sequence[Row],
    rival: Row | None,
    link: Links,
    *,
    changes: Sequence[Change] = (),
    before_it: int | None = None,
    rank: bool = True,
    may: Mapping[str, str] | None = None,
    notices: Sequence[Notice] = (),
    message: str = "",
    asks: Any = None,
) -> str:
    """Everything about one submission: chain, pipeline, funnel, tasks, how to do it again."""
    leader = leader_among(row, rivals) if rank else None
    return render(
        "submission.html",
        link,
        row=row,
        held=submission,
        evidence=evidence,
        tasks=task_bars(row, rival) if row is not None else [],
        curve=training_curve(row, evidence.curves) if row is not None and evidence else None,
        rivals=[
            other_row
            for other_row in rivals
            if row is None or other_row.submission_id != row.submission_id
        ],
        rival=rival,
        simple=simple_predictors(row, rivals) if row is not None and rank else None,
        changes=changes,
        before_it=before_it,
        ranked=rank,
        faults=submission.faults,
        may=may or {},
        notices=notices,
        place=place_of(row, rivals) if row is not None and not rank else None,
        citation=citation(submission, row) if rank else "",
        asks=asks,
        message=message,
        title=benchmark_title(submission.benchmark),
        compare_address=link.compare(leader.submission_id, submission.id) if leader else "",
    )


def leader_among(row: Row | None, rivals: Sequence[Row]) -> Row | None:
    """The leader that a row may be compared with; None where it is the leader, or far behind."""
    submitted = [other for other in rivals[:MOST_COMPARED_TO] if other.kind == "submission"]
    if row is None or row.kind != "submission" or len(submitted) < 2:
        return None
    ids = [other.submission_id for other in submitted]
    return submitted[0] if row.submission_id in ids[1:] else None


MOST_COMPARED_TO = 20  # rows of a board that are compared with its leader on pages of a static site


def simple_predictors(row: Row, rows: Sequence[Row]) -> dict[str, Any] | None:
    """What would have predicted the score without training; None where nothing can be said."""
    made, part = predictions(row, rows), subset(row, rows)
    if not made and part is None:
        return None
    return {"predictions": made, "subset": part, "verdict": verdict_of_predictors(made)}


def place_of(row: Row, rivals: Sequence[Row]) -> int:
    """The rank that a row would have among the accepted ones."""
    sign = 1 if row.headline.higher_is_better else -1
    own = sign * row.headline.value
    return 1 + sum(sign * other.headline.value > own for other in rivals)


def citation(submission: StoredSubmission, row: Row | None) -> str:
    """BibTeX that names one row by its submission's id."""
    method, team = (_bibtex(text) for text in (submission.method, submission.team or "unknown"))
    year = (row.date[:4] if row is not None and row.date else "") or when(submission.received)[:4]
    title = benchmark_title(submission.benchmark)
    board = _bibtex(f"{title}, {submission.scale} scale, {submission.track} track")
    score = f"; {words(row.headline.metric)} {row.headline.value:.4f}" if row is not None else ""
    return (
        f"@misc{{{submission.benchmark}-{submission.id[:12]},\n"
        f"  title  = {{{method}}},\n"
        f"  author = {{{{{team}}}}},\n"
        f"  year   = {{{year}}},\n"
        f"  note   = {{{board}{score}; submission {submission.id}}}\n"
        "}"
    )


def _bibtex(text: str) -> str:
    return "".join(letter if letter not in "{}\\%$&#_^~" else f"\\{letter}" for letter in text)


def question_page(
    submission: StoredSubmission,
    page: QuestionPage,
    rivals: Sequence[Row],
    near: str,
    link: Links,
    *,
    documents: NearDocuments | None = None,
    data: str = "",
    rival_files: Sequence[tuple[str, str]] = (),
) -> str:
    """Single questions of one task, beside a rival's answers.

    For a static site: `data` identifies the task's data, in the names of images, and `rival_files`
    are methods with the files of their answers.
    """
    rival = next((row for row in rivals if row.submission_id == page.rival), None)
    kept = {
        "seed": page.seed if page.seed != page.seeds[0] else "",
        "show": page.show,
        "category": page.category,
        "rival": page.rival,
    }
    return render(
        "questions.html",
        link,
        held=submission,
        page=page,
        questions=questions_of(page, documents),
        documents=documents,
        data=data,
        rival_files=rival_files,
        rivals=[row for row in rivals if row.submission_id != submission.id],
        rival=rival,
        near=near,
        kept=kept,
    )


def compare_page(
    rows: Sequence[Row],
    ids: Sequence[str],
    compared: Comparison | None,
    link: Links,
    *,
    curves: Crossings | None = None,
) -> str:
    """Up to five submissions side by side, each against the first; `ids` in the asked order."""
    plot = Markup(curves.svg) if curves is not None else ""
    return render(
        "compare.html",
        link,
        rows=rows,
        ids=ids,
        compared=compared,
        curves=curves,
        curves_plot=plot,
    )


def method_page(rows: Sequence[Row], name: str, team: str, benchmark: str, link: Links) -> str:
    """One method over the boards of a benchmark: its rows, and a line over scales."""
    title = benchmark_title(benchmark)
    plot = over_scales(rows)
    teams = sorted({row.team for row in rows if row.team})
    return render(
        "method.html",
        link,
        rows=rows,
        name=name,
        team=team,
        teams=teams,
        title=title,
        plot=plot,
        addresses=sorted({row.url for row in rows if row.url.startswith(("https://", "http://"))}),
    )


def team_page(rows: Sequence[Row], name: str, link: Links) -> str:
    """The rows of a team, the newest first."""
    ordered = sorted(rows, key=lambda row: (row.date, row.submission_id), reverse=True)
    return render("team.html", link, rows=ordered, name=name)


def scales_page(benchmark: str, comparison: Mapping[str, Any], link: Links) -> str:
    """One line per method across scales, and how far the scales agree."""
    title = benchmark_title(benchmark)
    installed = benchmark in packages()
    return render(
        "scales.html", link, benchmark=benchmark, title=title, installed=installed, **comparison
    )


def help_page(topic: str, link: Links) -> str:
    """What the words on the pages mean. KeyError for an unknown topic."""
    known = topics()
    if topic and topic not in known:
        raise KeyError(f"there is no help on {topic!r}")
    chosen = known[topic] if topic else None
    return render("help.html", link, topics=known, topic=chosen, name=topic)


def feed(team: str, notices: Sequence[tuple[Change, str]], base: str, key: str) -> str:
    """A team's notices as an Atom feed."""
    return render("feed.xml", Links(), team=team, notices=notices, base=base, key=key)


def form_page(name: str, link: Links, **values: Any) -> str:
    """Log in, submit, review."""
    return render(name, link, **values)
