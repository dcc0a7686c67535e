"""Checking a submission again: what was sent, its uids, its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from leaderboard.database.auth import create_token
from leaderboard.database.store import Store
from leaderboard.service.recheck import not_in, recheck
from leaderboard.service.service import Service
from leaderboard.submissions import uids
from leaderboard.submissions.bundle import Place, write_zip
from leaderboard.submissions.submission import pack
from pipelines.errors import RuleError
from pipelines.storage.open import open_store
from tests.leaderboard.made_up import make_folder, make_zip
from tests.leaderboard.rounds.test_round import play


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    yield Service(store, open_store(tmp_path / "files"))
    store.close()


def send(service: Service, path: Path, team: str = "a team") -> str:
    token, _ = create_token(service.store, "t", scopes=["submit"], team=team)
    submission, _ = service.receive(path, token)
    service.check_next("check")
    assert service.store.get(submission.id).state == "needs_review", service.store.get(
        submission.id
    ).faults
    service.store.move(submission.id, "accepted", who="x")
    return submission.id


def test_a_recheck_is_recorded_and_shown(service: Service, tmp_path: Path) -> None:
    id_ = send(service, make_zip(tmp_path))
    before = service.library.row(id_)
    result = recheck(service, id_, who="ada")
    assert (result.level, result.faults) == ("sampled", ())
    after = service.library.row(id_)
    assert before is not None
    assert after is not None
    assert (before.recheck, after.recheck) == ("none", "sampled")
    last = service.store.history(id_)[-1]
    assert (last.who, last.before, last.after) == ("ada", "accepted", "accepted")
    assert "every score computed again" in last.why


def test_a_bundle_that_changed_on_disk_is_found(service: Service, tmp_path: Path) -> None:
    id_ = send(service, make_zip(tmp_path))
    path = service.local(service.store.get(id_))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = recheck(service, id_)
    assert result.level == "none"
    assert "sha256: found" in str(result.faults[0])


def ids(number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    array = np.empty(number, uids.RECORDS)
    for half in ("f0", "f1"):
        array[half] = rng.integers(0, 1 << 64, number, dtype=np.uint64)
    return np.sort(array)


def with_uids(folder: Path, chosen: np.ndarray, path: Path) -> Path:
    """The bundle of a dataset that is a list of uids."""
    np.save(path, chosen)
    uid_list = uids.describe(chosen)
    (folder / "dataset").mkdir()
    pq.write_table(uids.choose(chosen, uid_list.sha256), folder / "dataset" / "uids.parquet")
    data = (folder / "dataset" / "uids.parquet").read_bytes()
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    manifest["uids"] = uid_list.model_dump()
    manifest["files"].append(
        {
            "name": "dataset/uids.parquet",
            "sha256": hashlib.sha256(data).hexdigest(),
            "num_bytes": len(data),
        }
    )
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    return write_zip(folder, folder.with_suffix(".zip"))


def test_a_whole_list_of_uids_is_merged_with_the_pool(service: Service, tmp_path: Path) -> None:
    pool = ids(1_000_000, 0)
    np.save(tmp_path / "pool.npy", pool)
    chosen = np.sort(np.random.default_rng(1).choice(pool, 600_000, replace=False))
    folder = make_folder(tmp_path, dataset=Place(location="https://example.org/list.npy"))
    id_ = send(service, with_uids(folder, chosen, tmp_path / "list.npy"))
    root, listed = str(tmp_path / "pool.npy"), str(tmp_path / "list.npy")
    with pytest.raises(RuleError, match=r"is at 'https://example\.org.*name it with --uids"):
        recheck(service, id_, pool=root)  # nobody opens what a sender wrote without looking at it
    result = recheck(service, id_, pool=root, uids=listed)
    assert (result.level, result.faults) == ("full", ())
    assert "all 600,000 uids have the hash that was submitted" in result.lines
    smaller = np.delete(pool, np.searchsorted(pool, chosen[777]))
    np.save(tmp_path / "pool.npy", smaller)
    result = recheck(service, id_, pool=root, uids=listed)
    assert str(result.faults[0]) == "dataset: uids: found 1 that are not in the pool, expected 0"
    other = chosen.copy()
    other["f1"][5] ^= np.uint64(1)
    np.save(tmp_path / "list.npy", np.sort(other))
    result = recheck(service, id_, pool=root, uids=listed)
    assert "bundle.json: uids: found '600000 uids," in str(result.faults[0])


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_merge_does_not_depend_on_its_pieces(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leaderboard.service import recheck as module

    monkeypatch.setattr(module, "AT_ONCE", at_once)
    pool = ids(200, 0)
    chosen = np.sort(np.concatenate([pool[::3], pool[:5], ids(11, 9)]))  # repeats are allowed
    known = set(map(tuple, pool.tolist()))
    assert (
        not_in(chosen, pool)
        == sum(tuple(concept) not in known for concept in chosen.tolist())
        == 11
    )


def test_a_checkpoint_is_evaluated_again(service: Service, minibench: Path, tmp_path: Path) -> None:
    entry = play(tmp_path / "work", "everything", [], team="a team")
    id_ = send(service, pack(entry, tmp_path / "x.zip"))
    [home] = (tmp_path / "work").glob("mini-mini/everything-*")
    models = [f"{seed}={home}/model-recipe-{seed}" for seed in (124, 125)]
    with pytest.raises(RuleError, match="name the model of seed 125"):
        recheck(service, id_, rerun=True, models=models[:1], data=str(minibench / "minibench/eval"))
    data = str(minibench / "minibench" / "eval")
    result = recheck(service, id_, rerun=True, models=models, data=data)
    assert (result.level, result.faults) == ("full", ())
    crossed = [models[0].replace("124=", "125="), models[1].replace("125=", "124=")]
    result = recheck(service, id_, rerun=True, models=crossed, data=data)
    assert "model: found" in str(result.faults[0])
