"""A dataset that others can build on, and a bundle that is sent from the command line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import uvicorn

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.rounds import client
from leaderboard.rounds.client import ServiceError
from leaderboard.rounds.publish import publish
from leaderboard.service.service import Service
from leaderboard.web.app import create_app
from pipelines.engine.run import run
from pipelines.errors import RuleError
from pipelines.execution.executors import map_here
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_zip


@pytest.fixture(scope="module")
def dataset(minibench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("publish") / "dataset"
    pipeline = Pipeline.from_steps([{"stop_words": {}}, "exact_dedup"], name="prose | only")
    run(
        pipeline,
        open_pool(str(minibench / "minibench" / "pool")),
        out=str(folder),
        map_tasks=map_here,
    )
    return folder


def test_a_published_dataset_is_whole_and_says_where_it_comes_from(
    dataset: Path, tmp_path: Path
) -> None:
    card = publish(str(dataset), str(tmp_path / "out"), benchmark="dclm", url="https://x.org")
    assert card == f"{tmp_path / 'out'}/README.md"
    ours, theirs = (read_chain(open_store(item)) for item in (dataset, tmp_path / "out"))
    assert [item.id for item in theirs] == [item.id for item in ours]
    for file in ours[-1].outputs:
        assert (tmp_path / "out" / file.name).read_bytes() == (dataset / file.name).read_bytes()
    text = Path(card).read_text()
    assert f"Dataset `{ours[-1].id}`" in text
    assert "| 1 | stop_words | 60 |" in text
    assert "too_few_stop_words" in text
    assert "| unknown | 2 | 0.parquet |" in text  # the licences of the pool's two files
    assert "Write-up: https://x.org" in text
    assert not (tmp_path / "out" / "rejected").exists()


def test_publishing_again_copies_nothing_and_another_is_refused(
    dataset: Path, minibench: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish(str(dataset), str(out), benchmark="dclm")
    times = {path: path.stat().st_mtime_ns for path in out.glob("data/*")}
    publish(str(dataset), str(out), benchmark="dclm")
    assert {path: path.stat().st_mtime_ns for path in out.glob("data/*")} == times
    pool = open_pool(str(minibench / "minibench" / "pool"))
    other = tmp_path / "other"
    run(Pipeline.from_steps([], name="all"), pool, out=str(other), map_tasks=map_here)
    with pytest.raises(RuleError, match="holds another dataset"):
        publish(str(other), str(out), benchmark="dclm")


def test_a_file_that_changed_is_not_published(dataset: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    victim = next(copy.glob("data/*.parquet"))
    victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(RuleError, match="the file was changed; curate again"):
        publish(str(copy), str(tmp_path / "out"), benchmark="dclm")
    assert not (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "data" / victim.name).exists()


@pytest.mark.s3
def test_a_dataset_is_published_to_a_bucket(dataset: Path, bucket: str) -> None:
    assert publish(str(dataset), f"{bucket}/mine", benchmark="dclm") == f"{bucket}/mine/README.md"
    there = read_chain(open_store(f"{bucket}/mine"))
    assert there[-1].id == read_chain(open_store(dataset))[-1].id


# ---- sending


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A service that checks, and a token in the environment."""
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    service = Service(store, open_store(tmp_path / "files"))
    _, secret = create_token(store, "ci", scopes=["submit"], team="a team")
    monkeypatch.setenv(client.TOKEN, secret)
    stop = threading.Event()

    def check() -> None:
        while not stop.wait(0.02):
            service.check_next("check")

    checking = threading.Thread(target=check)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(create_app(service), log_level="critical", lifespan="off")
        )
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()
        checking.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        stop.set()
        server.should_exit = True
        serving.join()
        checking.join()
    store.close()


def test_a_bundle_is_sent_and_its_check_is_waited_for(address: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path)
    status = client.send(path, address, pause=0.05)
    assert (status["state"], status["faults"]) == ("needs_review", [])
    assert client.send(path, address, pause=0.05)["id"] == status["id"]


def test_what_the_service_refuses_is_said(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServiceError, match=r"refused it \(403\).*work\.team: found 'thieves'"):
        client.send(make_zip(tmp_path, team="thieves"), address)
    with pytest.raises(ServiceError, match="not an address of a service"):
        client.send(make_zip(tmp_path), "example.org")
    status = client.send(make_zip(tmp_path, changed={"track": "byod"}), address, pause=0.05)
    assert status["state"] == "refused"
    assert orjson.dumps(status["faults"]).count(b"work.track") == 1
    monkeypatch.delenv(client.TOKEN)
    with pytest.raises(ServiceError, match="into LEADERBOARD_TOKEN"):
        client.send(make_zip(tmp_path), address)
