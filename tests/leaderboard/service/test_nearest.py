"""The training documents nearest to wrong questions, from the index to the page."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from starlette.testclient import TestClient

from leaderboard.__main__ import app as commands
from leaderboard.service.evidence import folder_of
from leaderboard.service.nearest import read_nearest, safe_address, write_nearest
from leaderboard.web.app import create_app
from pipelines.errors import UsageError
from pipelines.execution.executors import map_here
from pipelines.records import DatasetRecord, DatasetWork, File, MadeBy
from pipelines.reports.find_text import build
from tests.leaderboard.made_up import MADE_BY
from tests.leaderboard.service.test_drill_down import (  # noqa: F401
    TASK,
    accepted,
    eval_data,
    right_at,
    service,
)

BEFORE = "does anybody here in this old house know why on earth this is"


def dataset(folder: Path, texts: dict[str, str]) -> str:
    """A dataset with a record; returns the record's id."""
    import hashlib

    data = b"".join(orjson.dumps({"url": url, "text": text}) + b"\n" for url, text in texts.items())
    folder.mkdir()
    (folder / "0.jsonl").write_bytes(data)
    file = File(
        name="0.jsonl",
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        num_rows=len(texts),
    )
    record = DatasetRecord.seal(
        work=DatasetWork(pipeline={"name": "p", "steps": []}),
        parents={"pool": "0" * 32},
        outputs=[file],
        counts={"rows_in": len(texts), "rows_out": len(texts)},
        made_by=MadeBy(**MADE_BY.model_dump()),
    )
    (folder / "record.json").write_bytes(record.to_json())
    return record.id


@pytest.fixture
def indexed(service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    """A submission of which question 1 alone is right, and an index of its public dataset."""
    texts = {
        "https://example.org/three": f"who {BEFORE} Question 3? second 3 and more",
        "javascript:alert(1)": "nothing of all this is in a question here",
    }
    # The made-up questions have four words with their answers; they get thirteen more.
    monkeypatch.setattr(
        "leaderboard.service.nearest.passage_of",
        lambda text: f"{BEFORE} {text.context} {text.options[text.gold[0]]}",
    )
    id_ = dataset(tmp_path / "dataset", texts)
    index = str(tmp_path / "index")
    build(str(tmp_path / "dataset"), out=index, map_tasks=map_here)
    submission = accepted(service, tmp_path, edit=right_at(1))
    [row] = service.store.rows([submission.id])
    _change(service, row.model_copy(update={"dataset_public": True, "dataset_id": id_}))
    path = service.files.local_path(f"{folder_of(submission)}evidence.json")
    content = orjson.loads(path.read_bytes()) | {"dataset_at": str(tmp_path / "dataset")}
    path.write_bytes(orjson.dumps(content))
    return submission, index


def _change(service, row) -> None:  # noqa: F811
    from sqlalchemy import update

    from leaderboard.database import tables as t

    with service.store.writer.begin() as connection:
        connection.execute(
            update(t.StoredRow)
            .where(t.StoredRow.id == row.submission_id)
            .values(row=row.model_dump_json())
        )


def test_the_document_that_shares_most_is_on_the_page_of_its_question(
    service,  # noqa: F811
    indexed,
) -> None:
    submission, index = indexed
    [entry] = list(write_nearest(service, submission, index, most=100))
    assert entry.task == TASK
    assert entry.looked == tuple(n for n in range(60) if n != 1)
    near = {document.question: document for document in entry.near}
    # 17 words, 13 fives. Of question 3 all are in the document, of the others those of the first
    # 14 words, which are equal.
    assert near[3].share == 1.0
    assert near[4].share == 10 / 13
    assert near[3].passage == f"{BEFORE} Question 3? second 3"
    assert near[3].url == "https://example.org/three"
    assert read_nearest(service.files, submission, TASK) == entry
    text = TestClient(create_app(service)).get(f"/submissions/{submission.id}/tasks/{TASK}").text
    assert 'href="https://example.org/three" rel="nofollow noopener">row 0:0</a>' in text
    assert "100% of the question" in text
    assert f'<blockquote class="near">{BEFORE} Question 3? second 3</blockquote>' in text
    assert "looked for 59 of the wrong questions" in text


def test_an_index_of_another_dataset_is_refused(service, indexed, tmp_path: Path) -> None:  # noqa: F811
    submission, _ = indexed
    dataset(tmp_path / "other", {"u": "some other words that are long enough"})
    index = str(tmp_path / "other index")
    build(str(tmp_path / "other"), out=index, map_tasks=map_here)
    with pytest.raises(UsageError, match="the submission's dataset is"):
        list(write_nearest(service, submission, index, most=10))


def test_a_dataset_that_is_not_public_is_not_looked_through(service, tmp_path: Path) -> None:  # noqa: F811
    submission = accepted(service, tmp_path)
    with pytest.raises(UsageError, match="is not public"):
        list(write_nearest(service, submission, "no index", most=10))


def test_the_command_writes_and_says_how_many(service, indexed, tmp_path: Path) -> None:  # noqa: F811
    from typer.testing import CliRunner

    submission, index = indexed
    before = service.store.revision()
    arguments = ["nearest", submission.id, index, "--files", service.files.uri, "--questions", "5"]
    result = CliRunner().invoke(commands, [*arguments, "--database", service.store.url])
    assert result.exit_code == 0, result.output
    assert TASK in result.output
    assert service.store.revision() == before + 1


def test_only_addresses_of_the_web_become_links() -> None:
    assert safe_address("https://example.org/a?b=c") == "https://example.org/a?b=c"
    for url in ("javascript:alert(1)", "//example.org", "http://a b", 'https://x/"onclick', ""):
        assert safe_address(url) == ""
