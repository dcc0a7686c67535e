"""Records and logs that once broke pages, exports or the check: refused, and pages work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from leaderboard.database.auth import create_token
from leaderboard.database.connection import StoreError
from leaderboard.database.store import Store
from leaderboard.service.service import Service
from leaderboard.submissions.bundle import write_zip
from leaderboard.submissions.faults import BundleError
from leaderboard.web.app import create_app
from pipelines.storage.open import open_store
from tests.leaderboard.frauds import altered, dated, put, record_of, relisted, rewritten
from tests.leaderboard.made_up import make_folder, make_zip, sha


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    yield Service(store, open_store(tmp_path / "files"))
    store.close()


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(fields: dict[str, Any]) -> None:
        target = fields
        for part in path[:-1]:
            target = target[part]
        del target[path[-1]]

    return change


def empty_chain(folder: Path) -> Path:
    return rewritten(folder, record_of(folder).model_copy(update={"chain": ()}))


ODD: dict[str, Callable[[Path], Path]] = {
    "an empty chain": empty_chain,
    "a count of two parts": lambda f: altered(f, "dataset", put("counts", "rejected/x", value=0)),
    "steps that are 5": lambda f: altered(f, "dataset", put("work", "pipeline", "steps", value=5)),
    "steps that are a word": lambda f: altered(
        f, "dataset", put("work", "pipeline", "steps", value="str")
    ),
    "a step that is 3": lambda f: altered(
        f, "dataset", put("work", "pipeline", "steps", value=[3])
    ),
    "a time that is none": lambda f: dated(f, finished="yesterday"),
    "a date that is a formula": lambda f: dated(f, finished="=1+1"),
    "a date that is a year": lambda f: dated(f, finished="9999-"),
    "rows below zero": lambda f: altered(f, "dataset", put("counts", "rows_out", value=-5)),
    "flops below zero": lambda f: altered(f, "model", put("results", "flops", value=-1)),
    "flops that are a word": lambda f: altered(f, "model", put("results", "flops", value="x")),
    "no size": lambda f: altered(f, "packed", without("counts", "tokens")),
    "no budget": lambda f: altered(f, "model", put("results", value=None)),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_record_is_refused_and_its_page_says_why(
    name: str, service: Service, tmp_path: Path
) -> None:
    token, secret = create_token(service.store, "ci", scopes=["submit"], team="a team")
    reviewer = create_token(service.store, "ada", scopes=["review"])[1]
    path = write_zip(ODD[name](make_folder(tmp_path)), tmp_path / "odd.zip")
    client = TestClient(create_app(service), raise_server_exceptions=False)
    try:
        submission, _ = service.receive(path, token)
    except BundleError:
        return  # its message names the faults
    service.check_next("check")
    kept = service.store.get(submission.id)
    assert kept.state == "refused"
    assert kept.attempts == 1
    for used in (secret, reviewer):
        url = f"/api/v1/submissions/{submission.id}"
        answer = client.get(url, headers={"authorization": f"Bearer {used}"})
        assert answer.status_code == 200
        assert answer.json()["faults"]
    for page in ("/", "/boards/dclm/tiny/filtering", "/boards/dclm/tiny/filtering/plots"):
        assert client.get(page).status_code in (200, 404)


def test_what_a_record_calls_images_breaks_no_page(service: Service, tmp_path: Path) -> None:
    """`results.pictures` of packed data is read by the page; here it is a number."""
    token, _ = create_token(service.store, "ci", scopes=["submit"], team="a team")
    for number, value in enumerate((5, "x", [1], {"counts": 3}, {"counts": {"success": "y"}})):
        folder = altered(
            make_folder(tmp_path / str(number), chance=number, method=f"m {number}"),
            "packed",
            put("results", value={"pictures": value}),
        )
        submission, _ = service.receive(write_zip(folder, tmp_path / f"{number}.zip"), token)
        while service.check_next("check") is not None:
            pass
        if service.store.get(submission.id).state == "refused":
            continue
        service.store.move(submission.id, "accepted", who="ada")
        client = TestClient(create_app(service), raise_server_exceptions=False)
        assert client.get(f"/submissions/{submission.id}").status_code == 200


# ---- logs that pages would read


def not_utf8(log: pa.Table, path: Path) -> None:
    """A text of bytes that are no text."""
    offsets = pa.array(np.arange(len(log) + 1, dtype=np.int32)).buffers()[1]
    data = pa.py_buffer(b"\xff" * len(log))
    texts = pa.Array.from_buffers(pa.string(), len(log), [None, offsets, data])
    pq.write_table(log.append_column("generated", texts), path)


def broken_page(log: pa.Table, path: Path) -> None:
    """A column that scores do not need, whose page is zeros."""
    contexts = pa.array([[[1, 2, 3]]] * len(log), pa.list_(pa.list_(pa.int32())))
    pq.write_table(log.append_column("contexts", contexts), path, compression="zstd")
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = group.column(group.num_columns - 1)
    data = bytearray(path.read_bytes())
    begin = column.data_page_offset + 20
    data[begin : begin + column.total_compressed_size - 20] = bytes(
        column.total_compressed_size - 20
    )
    path.write_bytes(data)


@pytest.mark.parametrize("write", [not_utf8, broken_page])
def test_a_column_that_no_page_could_read_is_refused(
    write: Callable[[pa.Table, Path], None], service: Service, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path)
    [path] = folder.glob("questions/124/heldout_ending/*.parquet")
    write(pq.read_table(path), path)
    relisted(folder, {path.relative_to(folder).as_posix(): path.read_bytes()})
    token, _ = create_token(service.store, "ci", scopes=["submit"], team="a team")
    submission, _ = service.receive(write_zip(folder, tmp_path / "x.zip"), token)
    service.check_next("check")
    kept = service.store.get(submission.id)
    assert kept.state == "refused"
    assert {fault.rule for fault in kept.faults} <= {"form.columns", "form.bundle"}


def test_a_refusal_of_many_faults_is_a_small_page(service: Service, tmp_path: Path) -> None:
    """100,000 files that are not there: 10 MB in the row once, and 6 seconds a page."""
    folder = make_folder(tmp_path)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["files"] += [
        {"name": f"questions/1/a/{n:06d}.parquet", "sha256": sha(n), "num_bytes": 1}
        for n in range(100_000)
    ]
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    token, secret = create_token(service.store, "ci", scopes=["submit"], team="a team")
    submission, _ = service.receive(write_zip(folder, tmp_path / "x.zip"), token)
    service.check_next("check")
    client = TestClient(create_app(service))
    headers = {"authorization": f"Bearer {secret}"}
    for page in (f"/api/v1/submissions/{submission.id}", "/api/v1/submissions?limit=100"):
        answer = client.get(page, headers=headers)
        assert answer.status_code == 200
        assert len(answer.content) < 100_000


# ---- pools and teams


def accepted(service: Service, path: Path, team: str) -> str:
    token, _ = create_token(service.store, "ci", scopes=["submit"], team=team)
    submission, _ = service.receive(path, token)
    while service.check_next("check") is not None:
        pass
    service.store.move(submission.id, "accepted", who="ada")
    return submission.id


def test_many_rows_of_one_team_are_not_the_group_that_is_shown_first(
    service: Service, tmp_path: Path
) -> None:
    """Four entries of one team on a pool of its own, against two of two teams on another."""
    for n in range(5):
        path = make_zip(
            tmp_path, team="alone", method=f"m {n}", chance=n, track="mixing", pool="mine"
        )
        accepted(service, path, "alone")
    for n, team in enumerate(("first", "second", "third", "fourth")):
        path = make_zip(tmp_path, team=team, method=team, chance=20 + n, track="mixing")
        accepted(service, path, team)
    page = TestClient(create_app(service)).get("/api/v1/boards/dclm/tiny/mixing").json()
    assert [group["number"] for group in page["groups"]] == [4, 5]
    assert {row["team"] for row in page["rows"]} == {"first", "second", "third", "fourth"}


@pytest.mark.parametrize("twin", ["TEAM A", "team \u0410", "te\u0430m A", "team-A", "team  A"])
def test_a_token_of_a_team_that_looks_like_another_is_not_made(twin: str, service: Service) -> None:
    create_token(service.store, "ci", scopes=["submit"], team="team A")
    create_token(service.store, "again", scopes=["submit"], team="team A")
    with pytest.raises(StoreError, match="the team"):
        create_token(service.store, "ci", scopes=["submit"], team=twin)
