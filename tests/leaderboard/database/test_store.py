"""States, audit, leases and tokens, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from leaderboard.board import boards
from leaderboard.board.boards import Library, View
from leaderboard.board.intervals import student_quantile
from leaderboard.database import auth, connection, store, tables
from leaderboard.database.connection import StoreError, latest_version
from leaderboard.database.store import Store
from leaderboard.rules import load_benchmark
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.faults import fault
from leaderboard.submissions.results import Measured
from leaderboard.submissions.validate import check_bundle
from leaderboard.web.shelf import Shelf
from tests.leaderboard.made_up import make_folder

FAULT = fault("submission.json", "work.scale", "huge", "tiny")


@pytest.fixture
def board_store(database: str) -> Iterator[Store]:
    opened = Store(database)
    yield opened
    opened.close()


def send(board_store: Store, number: int = 1, *, team: str = "a team") -> str:
    id_ = f"{number:032x}"
    board_store.receive(
        id=id_,
        team=team,
        token="t",
        benchmark="dclm",
        scale="tiny",
        track="filtering",
        method="m",
        bundle="b",
        bundle_sha256="0" * 64,
        bundle_bytes=1,
    )
    return id_


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[Measured]:
    collected = []
    for chance, (method, skill) in enumerate((("no_filter", 0.4), ("good", 0.6), ("better", 0.62))):
        root = tmp_path_factory.mktemp("m")
        folder = make_folder(root, method=method, skill=skill, rows=200, chance=chance)
        entry_ = check_bundle(open_bundle(folder)).measured
        assert entry_ is not None
        collected.append(entry_)
    return collected


def accept(board_store: Store, entry: Measured) -> None:
    id_ = entry.row.submission_id
    send(board_store, int(id_, 16))
    assert board_store.claim("check") is not None
    assert board_store.checked(id_, "check", (), entry)
    board_store.move(id_, "accepted", who="maintainer")


def test_the_migrated_tables_are_those_that_the_code_names(board_store: Store) -> None:
    with board_store.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []


def test_many_processes_may_migrate_at_once(database: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(Store, [database] * 4))
    assert {store.version() for store in stores} == {latest_version()}
    for item in stores:
        item.close()


def test_a_database_of_another_version_is_refused(board_store: Store, database: str) -> None:
    with board_store.writer.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"has version 9999, .*: it is of a newer program"):
        Store(database, migrate=False)
    with pytest.raises(StoreError, match="restore the backup that was made before"):
        Store(database)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(StoreError, match="is not an address of a database"):
        Store("leaderboard.db")


def test_asking_for_a_board_that_is_not_there_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no board in the database"):
        Store(f"sqlite:///{tmp_path / 'mistyped.db'}", migrate=False)
    assert list(tmp_path.iterdir()) == []


def test_sending_twice_is_one_submission(board_store: Store) -> None:
    id_ = send(board_store)
    again, new = board_store.receive(**_fields(board_store, id_))
    assert (again.id, new) == (id_, False)
    assert [line.after for line in board_store.history(id_)] == ["received"]


def _fields(store_: Store, id_: str) -> dict[str, object]:
    fields = store_.get(id_).model_dump()
    names = "id team token benchmark scale track method bundle bundle_sha256 bundle_bytes"
    return {name: fields[name] for name in names.split()}


def test_another_team_cannot_send_the_same(board_store: Store) -> None:
    id_ = send(board_store)
    with pytest.raises(StoreError, match="was sent by another team"):
        board_store.receive(**(_fields(board_store, id_) | {"team": "thieves"}))


def test_the_way_of_a_submission_is_in_the_audit(board_store: Store) -> None:
    id_ = send(board_store)
    claimed = board_store.claim("check 1")
    assert claimed is not None
    assert (claimed.id, claimed.state, claimed.attempts) == (id_, "checking", 1)
    assert board_store.checked(id_, "check 1", (), None)
    board_store.move(id_, "accepted", who="maintainer (token 12)", why="well done")
    lines = [(line.before, line.after, line.who, line.why) for line in board_store.history(id_)]
    assert lines == [
        ("", "received", "token t", "sent by a team"),
        ("received", "checking", "check 1", ""),
        ("checking", "needs_review", "check 1", "all rules hold"),
        ("needs_review", "accepted", "maintainer (token 12)", "well done"),
    ]


@pytest.mark.parametrize("statement", ["UPDATE audit SET who = 'me'", "DELETE FROM audit"])
def test_the_audit_is_append_only(board_store: Store, statement: str) -> None:
    id_ = send(board_store)
    with pytest.raises(DBAPIError, match="append-only"), board_store.writer.begin() as connection:
        connection.execute(text(statement))
    assert len(board_store.history(id_)) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [("received", "accepted"), ("received", "refused"), ("refused", "accepted")],
)
def test_states_are_not_skipped(board_store: Store, before: str, after: str) -> None:
    id_ = send(board_store)
    if before == "refused":
        board_store.claim("c")
        board_store.checked(id_, "c", (FAULT,), None)
    with pytest.raises(StoreError, match=f"is {before}; it cannot be {after} now"):
        board_store.move(id_, after, who="x")  # type: ignore[arg-type]


def test_a_refused_one_says_why_and_may_be_sent_again(board_store: Store) -> None:
    id_ = send(board_store)
    board_store.claim("c")
    board_store.checked(id_, "c", (FAULT,), None)
    assert board_store.get(id_).faults == (FAULT,)
    again, new = board_store.receive(**_fields(board_store, id_))
    assert (again.state, again.faults, new) == ("received", (), False)


def test_a_check_that_dies_is_taken_over(board_store: Store) -> None:
    id_ = send(board_store)
    assert board_store.claim("first") is not None
    assert board_store.claim("second") is None
    with board_store.writer.begin() as connection:  # as if its time had passed
        connection.execute(text("UPDATE submissions SET lease_until = 1"))
    taken = board_store.claim("second")
    assert taken is not None
    assert (taken.id, taken.attempts) == (id_, 2)
    assert not board_store.checked(id_, "first", (FAULT,), None)  # it comes late
    assert not board_store.renew(id_, "first")
    assert board_store.checked(id_, "second", (), None)
    assert board_store.get(id_).state == "needs_review"


def test_a_check_that_always_dies_ends_as_refused(board_store: Store) -> None:
    id_ = send(board_store)
    for _ in range(store.ATTEMPTS):
        assert board_store.claim("c", lease_seconds=-1) is not None
    assert board_store.claim("c") is None
    submission = board_store.get(id_)
    assert submission.state == "refused"
    assert "a check that ended 3 times without a result" in str(submission.faults[0])


def test_many_checks_take_each_submission_once(board_store: Store) -> None:
    ids = [send(board_store, number) for number in range(40)]

    def work(owner: str) -> list[str]:
        claimed = []
        while (submission := board_store.claim(owner)) is not None:
            claimed.append(submission.id)
        return claimed

    with ThreadPoolExecutor(4) as pool:
        taken = Counter(id_ for some in pool.map(work, "abcd") for id_ in some)
    assert taken == Counter(ids)


def test_only_accepted_rows_are_on_the_board(board_store: Store, measured: list[Measured]) -> None:
    library = Library(board_store)
    assert library.page("dclm", "tiny", "filtering", View()).rows == ()
    accept(board_store, measured[0])
    accept(board_store, measured[1])
    page = library.page("dclm", "tiny", "filtering", View())
    assert [row.method for row in page.rows] == ["good", "no_filter"]
    board_store.move(measured[1].row.submission_id, "withdrawn", who="team")
    page = library.page("dclm", "tiny", "filtering", View())
    assert [(row.method, row.rank) for row in page.rows] == [("no_filter", 1)]
    assert board_store.boards()[0].number == 1


def test_ranks_ties_and_baselines_are_computed_from_the_resamples(
    board_store: Store, measured: list[Measured]
) -> None:
    for entry in measured:
        accept(board_store, entry)
    rows = Library(board_store).page("dclm", "tiny", "filtering", View()).rows
    assert [row.method for row in rows] == ["better", "good", "no_filter"]
    tie, plain = rows[1], rows[2]
    assert tie.behind_leader is not None
    assert plain.behind_leader is not None
    assert (tie.tied_with_leader, plain.tied_with_leader) == (True, False)
    assert plain.over_baseline is None
    assert tie.over_baseline is not None
    assert tie.over_baseline.low > 0
    assert tie.baseline == plain.submission_id
    # by hand: the variance of the difference of the resamples, and twice that of a single run over
    # seeds and orders of the data, as the rule book has it. The quantile is between the normal's
    # and Student's with Satterthwaite's degrees of freedom where the questions are left out
    noise = load_benchmark("dclm").scale("tiny").noise_of("bits_per_byte")
    assert noise is not None
    a, b = measured[2].draws["bits_per_byte"], measured[1].draws["bits_per_byte"]
    items = float((a.astype(float) - b).var(ddof=1))
    spread = (items + 2 * (noise.seed_sd**2 + noise.order_sd**2)) ** 0.5
    half = tie.behind_leader.high - tie.behind_leader.value
    parts = [
        (2 * noise.seed_sd**2, noise.seed_freedom),
        (2 * noise.order_sd**2, noise.order_freedom),
    ]
    degrees = sum(v for v, _ in parts) ** 2 / sum(v**2 / free for v, free in parts)
    assert 1.96 * spread <= half <= student_quantile(0.975, degrees) * spread


def test_the_order_of_a_board_outlives_the_service(
    board_store: Store,
    measured: list[Measured],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(boards, "KEPT_FROM", 1)
    for entry in measured:
        accept(board_store, entry)
    key = ("dclm", "tiny", "filtering")
    views = [
        View(),
        View(metric="cloze"),
        View(sort="method", order="down"),
        View(sort="heldout_bits_per_byte", limit=2),
        View(q="GOO"),
        View(since="2027-01-01"),
        View(kind="submission", recheck="none", offset=1, limit=1),
    ]
    first = Library(board_store, keeper=Shelf(tmp_path))
    pages = [first.page(*key, view) for view in views]
    rows = first.rows(*key)
    again = Library(board_store, keeper=Shelf(tmp_path))
    assert again.page(*key, View(limit=1)).rows == pages[0].rows[:1]
    assert again.num_read == 1  # of three
    assert [again.page(*key, view) for view in views] == pages
    assert again.rows(*key) == rows
    id_ = rows[2].submission_id
    assert again.row(id_) == first.row(id_)
    assert again.row(id_, "cloze") == first.row(id_, "cloze")
    assert list(again.peers(rows[0])) == list(first.peers(rows[0]))
    # what is kept is of one content
    board_store.move(measured[1].row.submission_id, "withdrawn", who="team")
    last = Library(board_store, keeper=Shelf(tmp_path))
    for library in (first, again, last):
        assert library.page(*key, View()).rows == last.page(*key, View()).rows
    assert [row.method for row in last.rows(*key)] == ["better", "no_filter"]


def test_a_view_filters_sorts_and_pages(board_store: Store, measured: list[Measured]) -> None:
    for entry in measured:
        accept(board_store, entry)
    library = Library(board_store)

    def names(**view: object) -> list[str]:
        page = library.page("dclm", "tiny", "filtering", View.model_validate(view))
        return [row.method for row in page.rows]

    assert names(q="GOO") == ["good"]
    assert names(sort="method") == ["better", "good", "no_filter"]
    assert names(sort="method", order="down") == ["no_filter", "good", "better"]
    assert names(limit=1, offset=1) == ["good"]
    assert names(metric="cloze")[-1] == "no_filter"
    assert names(since="2027-01-01") == []
    assert names(sort="heldout_bits_per_byte", order="up") == ["better", "good", "no_filter"]
    with pytest.raises(KeyError, match="no metric 'x'"):
        names(metric="x")


# ---- tokens


def test_a_token_is_shown_once_and_stored_hashed(board_store: Store, tmp_path: Path) -> None:
    token, secret = auth.create_token(board_store, "ci", scopes=["submit"], team="a team")
    assert auth.find_token(board_store, secret) == token
    with board_store.engine.connect() as connection:
        stored = connection.execute(text("SELECT * FROM tokens")).one()
    assert secret not in repr(stored)
    assert secret.split("_", 2)[2] not in repr(stored)


def test_a_token_can_be_revoked_and_expires(board_store: Store) -> None:
    token, secret = auth.create_token(board_store, "ci", scopes=["review"])
    session = auth.open_session(board_store, token)
    assert auth.find_session(board_store, session) == token
    auth.revoke_token(board_store, token.id)
    assert auth.find_token(board_store, secret) is None
    assert auth.find_session(board_store, session) is None
    _, old = auth.create_token(board_store, "ci", scopes=["review"], days=-1)
    assert auth.find_token(board_store, old) is None


@pytest.mark.parametrize("secret", ["", "lb", "lb_x_y", "lb__", "x" * 1000, "lb_' OR 1=1_x"])
def test_what_is_no_token_is_unknown(board_store: Store, secret: str) -> None:
    assert auth.find_token(board_store, secret) is None


def test_a_submit_token_belongs_to_a_team(board_store: Store) -> None:
    with pytest.raises(StoreError, match="belongs to a team"):
        auth.create_token(board_store, "ci", scopes=["submit"])
    with pytest.raises(StoreError, match=r"unknown scopes \['root'\]"):
        auth.create_token(board_store, "ci", scopes=["root"], team="a")


def test_a_rate_says_how_long_to_wait() -> None:
    rate = auth.Rate(2, 3600)
    assert [rate.wait("a") for _ in range(2)] == [0, 0]
    assert 1700 < rate.wait("a") <= 1800
    assert rate.wait("b") == 0


def test_a_reviewer_does_not_decide_on_their_own_team(
    board_store: Store, measured: list[Measured]
) -> None:
    entry = measured[1]
    id_ = entry.row.submission_id
    send(board_store, int(id_, 16))
    assert board_store.claim("check") is not None
    assert board_store.checked(id_, "check", (), entry)
    team = board_store.get(id_).team
    with pytest.raises(StoreError, match="is of your own team; another reviewer has to decide"):
        board_store.move(id_, "accepted", who="reviewer", team=team)
    assert board_store.move(id_, "accepted", who="reviewer", team="another").state == "accepted"


def test_versions_are_read_off_the_names_of_the_migrations_as_alembic_has_them() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(connection.MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert connection.latest_version() == scripts.get_current_head()
    in_order = [script.revision for script in scripts.walk_revisions()][::-1]
    assert list(connection._known_versions()) == in_order
