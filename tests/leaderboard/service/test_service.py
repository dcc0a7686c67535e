"""An entry goes straight to the board where the rule book says so, and waits for a person else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboard import rules
from leaderboard.database.auth import create_token
from leaderboard.database.states import RULE_BOOK
from leaderboard.database.store import Store
from leaderboard.service.service import Service, admits
from leaderboard.submissions import honesty, validate
from leaderboard.submissions.novelty import Notice
from leaderboard.web.access import role_of
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    yield Service(store, open_store(tmp_path / "files"))
    store.close()


@pytest.fixture
def reviewed_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who reviews at all scales of DCLM, as a list of one."""
    book, who = rules.load_benchmark("dclm"), ["machine"]

    def changed(name: str) -> rules.Benchmark:
        scales = tuple(scale.model_copy(update={"review": who[0]}) for scale in book.scales)
        return book.model_copy(update={"scales": scales})

    monkeypatch.setattr(rules, "load_benchmark", changed)
    return who


def state_after_check(service: Service, path: Path) -> str:
    token, _ = create_token(service.store, "t", scopes=["submit"], team="a team")
    submission, _ = service.receive(path, token)
    service.check_next("check")
    return service.store.get(submission.id).state


@pytest.mark.parametrize(("who", "state"), [("machine", "accepted"), ("person", "needs_review")])
def test_an_entry_without_notices_is_admitted_as_the_rule_book_says(
    who: str,
    state: str,
    service: Service,
    reviewed_by: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reviewed_by[0] = who
    monkeypatch.setattr(validate, "HONESTY", (honesty.licences,))
    monkeypatch.setattr(honesty, "evidence", lambda out: ())
    monkeypatch.setattr(honesty, "overlap", lambda case, out: ())
    path = make_zip(tmp_path)
    assert state_after_check(service, path) == state
    [last] = service.store.history(path.stem)[-1:]
    assert (last.who, last.after) == ((RULE_BOOK if who == "machine" else "check"), state)
    assert role_of(RULE_BOOK) == "the rule book"  # what everybody sees in its history


@pytest.mark.usefixtures("reviewed_by")
def test_a_notice_is_for_a_person(service: Service, tmp_path: Path) -> None:
    """No sketch of its documents, no controls, an overlap that nobody measured."""
    assert state_after_check(service, make_zip(tmp_path)) == "needs_review"


@pytest.mark.usefixtures("reviewed_by")
def test_what_only_informs_does_not_hold_an_entry(service: Service, tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    token, _ = create_token(service.store, "t", scopes=["submit"], team="a team")
    submission, _ = service.receive(path, token)
    licences = Notice(rule="honesty.licences", text="CC0", informs=True)
    near = Notice(rule="novelty.losses", text="near another")
    assert admits(submission, [licences])
    assert not admits(submission, [licences, near])
