"""Single questions: what was asked, what was answered, where two models differ."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest

from evals.kinds import read_data
from evals.tasks import load_task
from leaderboard.database.auth import create_token
from leaderboard.database.states import StoredSubmission
from leaderboard.database.store import Store
from leaderboard.service.drill_down import Asked, page_of
from leaderboard.service.question_texts import why_not_shown
from leaderboard.service.service import Service
from leaderboard.service.side_by_side import side_by_side
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip

TASK = "heldout_ending"
NUM = 60


@pytest.fixture
def eval_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one task, which made-up records name as their data."""
    folder = tmp_path / "eval"
    task = load_task(TASK)
    path = folder / task.file
    path.parent.mkdir(parents=True)
    rows = [
        {"query": f"Question {n}?", "choices": [f"first {n}", f"second {n}"], "gold": n % 2}
        for n in range(NUM)
    ]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    identity = read_data(task, folder).identity
    monkeypatch.setattr(
        "tests.leaderboard.made_up.sha",
        lambda *parts: identity if parts == ("identity", TASK) else plain(*parts),
    )
    return folder


def plain(*parts: object) -> str:
    import hashlib

    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture
def service(tmp_path: Path, eval_data: Path) -> Iterator[Service]:
    store = Store(f"sqlite:///{tmp_path / 'board.db'}")
    yield Service(store, open_store(tmp_path / "files"), eval_data=str(eval_data))
    store.close()


def accepted(service: Service, folder: Path, **options: object) -> StoredSubmission:
    token, _ = create_token(service.store, "t", scopes=["submit"], team="a team")
    submission, _ = service.receive(make_zip(folder, **options), token)
    service.check_next("check")
    assert service.store.get(submission.id).state == "needs_review"
    service.store.move(submission.id, "accepted", who="maintainer")
    return service.store.get(submission.id)


def right_at(*right: int):
    """An edit of the log of TASK: right at these questions alone."""

    def edit(task, log: pa.Table) -> pa.Table:
        if task.name != TASK:
            return log
        is_right = np.isin(np.arange(len(log)), right)
        gold = log["gold"].to_numpy()
        columns = {
            "predicted": pa.array(np.where(is_right, gold, 1 - gold), pa.int32()),
            "correct": pa.array(is_right),
            "credit": pa.array(is_right.astype(float)),
        }
        for name, column in columns.items():
            log = log.set_column(log.column_names.index(name), name, column)
        return log

    return edit


def test_a_question_has_its_text_its_options_and_its_right_answer(service, tmp_path) -> None:
    entry = accepted(service, tmp_path, edit=right_at(1))
    page = page_of(service.files, entry, Asked(TASK, limit=2))
    text = page.texts[1]
    assert (text.context, text.options, text.gold) == ("Question 1?", ("first 1", "second 1"), (1,))
    assert page.no_texts == ""
    assert [question["correct"] for question in page.questions] == [False, True]


def test_wrong_and_right_answers_are_chosen(service, tmp_path) -> None:
    entry = accepted(service, tmp_path, edit=right_at(3, 59))
    right = page_of(service.files, entry, Asked(TASK, show="right"))
    assert [question["row"] for question in right.questions] == [3, 59]
    wrong = page_of(service.files, entry, Asked(TASK, show="wrong", limit=3, offset=2))
    assert [question["row"] for question in wrong.questions] == [2, 4, 5]
    assert (wrong.total, wrong.right) == (58, 2)
    assert [text.context for text in wrong.texts] == ["Question 2?", "Question 4?", "Question 5?"]


def test_where_two_differ_comes_first(service, tmp_path) -> None:
    first = accepted(service, tmp_path, edit=right_at(0, 7), method="first", chance=1)
    second = accepted(service, tmp_path, edit=right_at(0, 9, 50), method="second", chance=2)
    page = page_of(service.files, first, Asked(TASK, limit=5), rival=second)
    assert page.num_apart == 3
    rows = [question["row"] for question in page.questions]
    assert rows == [7, 9, 50, 0, 1]
    assert [answer["row"] for answer in page.rival_answers] == rows
    assert [answer["correct"] for answer in page.rival_answers] == [False, True, True, True, False]


def test_rows_in_another_order_are_the_same_questions(service, tmp_path) -> None:
    def turned(task, log: pa.Table) -> pa.Table:
        log = right_at(0, 9)(task, log)
        return log.take(list(range(len(log)))[::-1]) if task.name == TASK else log

    first = accepted(service, tmp_path, edit=right_at(0), method="first", chance=1)
    second = accepted(service, tmp_path, edit=turned, method="second", chance=2)
    page = page_of(service.files, second, Asked(TASK, limit=2), rival=first)
    assert (page.num_apart, page.questions[0]["row"], page.rival_answers[0]["row"]) == (1, 9, 9)
    assert page.texts[0].context == "Question 9?"


def test_other_data_than_the_services_has_no_texts(service, tmp_path, eval_data: Path) -> None:
    path = eval_data / load_task(TASK).file
    path.write_bytes(path.read_bytes().replace(b"Question", b"Query"))
    entry = accepted(service, tmp_path)
    page = page_of(service.files, entry, Asked(TASK, limit=2))
    assert page.texts == ()
    assert "does not have the data" in page.no_texts


def test_bad_evaluation_data_fails_no_check(service, tmp_path, eval_data: Path) -> None:
    (eval_data / load_task(TASK).file).write_bytes(b"not JSON\n")
    assert page_of(service.files, accepted(service, tmp_path), Asked(TASK)).texts == ()


@pytest.mark.parametrize(
    ("licence", "secret", "shown"),
    [
        ("MIT", False, True),
        ("CC BY 4.0", False, True),
        ("CC-BY-4.0 (twemoji), MIT (emojibase)", False, True),
        ("MIT", True, False),
        ("MIT; rights in the exam texts unclear", False, False),
        ("CC BY-NC-SA 4.0", False, False),
        ("that of the dataset", False, False),
        ("CC BY 4.0; its authors ask not to publish it in plain text", False, False),
    ],
)
def test_only_free_licences_are_shown(licence: str, secret: bool, shown: bool) -> None:
    task = load_task("arc_easy").model_copy(update={"licence": licence, "secret": secret})
    assert (why_not_shown(task) == "") is shown


def test_rows_are_compared_question_by_question(service, tmp_path) -> None:
    ids = [
        accepted(service, tmp_path, edit=right_at(*right), method=name, chance=n).id
        for n, (name, right) in enumerate({"a": (0, 1, 2), "b": (2, 3, 4, 5, 6)}.items())
    ]
    rows = [service.library.row(id_) for id_ in ids]
    compared = side_by_side(service, rows)
    [line] = [line for line in compared.lines if line.name == TASK]
    paired = line.cells[1].paired
    assert (paired.wins, paired.losses, paired.ties) == (4, 2, NUM - 6)
    assert paired.difference == pytest.approx(2 / NUM, abs=1e-6)
    # 2 * P(at most 2 of 6) = 2 * (1 + 6 + 15) / 64
    assert paired.sign_p == pytest.approx(44 / 64)
    turned = side_by_side(service, rows[::-1])
    [back] = [line for line in turned.lines if line.name == TASK]
    assert (back.cells[1].paired.wins, back.cells[1].paired.losses) == (2, 4)


def test_rows_of_other_data_are_not_compared(service, tmp_path) -> None:
    first = accepted(service, tmp_path, method="a", chance=1)
    row = service.library.row(first.id)
    other = row.model_copy(update={"data_id": "other"})
    compared = side_by_side(service, [row, other])
    assert compared.apart == "evaluation data"
    assert not any(line.known for line in compared.lines)


def test_images_and_class_names_are_shown_small(tmp_path: Path) -> None:
    from PIL import Image

    from leaderboard.service.question_texts import thumbnail

    path = tmp_path / "a.png"
    Image.new("RGB", (600, 300), "red").save(path)
    import base64
    import io

    small = Image.open(io.BytesIO(base64.b64decode(thumbnail(path.read_bytes()))))
    assert (small.format, small.size) == ("WEBP", (128, 64))
    assert thumbnail(b"no image") == ""
