"""A training folder in a bucket: snapshots that are whole or not there, and the finished model.

The bucket is a folder behind `memory`-like URIs here: any store that `open_store` gives will do.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from leaderboard.rounds import mirror as module
from leaderboard.rounds.mirror import (
    PARTIAL,
    SNAPSHOT,
    download,
    local_model,
    mirrored,
    working_folder,
)
from pipelines.errors import PlanError
from pipelines.records import ModelRecord, ModelWork, RecordError, made_by, now, sha256_bytes
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore

OUT = "s3://bucket/model"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    store = LocalStore(tmp_path / "bucket")
    monkeypatch.setenv("CURATION_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(module, "open_store", lambda uri: store)
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600)  # looks happen where the tests say
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return store


def checkpoint(folder: Path, step: int) -> None:
    folder_ = folder / "checkpoints" / f"step-{step:08d}"
    folder_.mkdir(parents=True)
    (folder_ / "weights").write_bytes(b"w" * step)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(f'{{"step":{step}}}\n')
    for older in folder_.parent.iterdir():
        if older != folder_:
            shutil.rmtree(older)


def stop_after(step: int) -> None:
    """A training run that is stopped after a checkpoint."""
    with suppress(RuntimeError), mirrored(OUT, rank=0) as folder:
        checkpoint(Path(folder), step)
        raise RuntimeError


def names(store: LocalStore) -> list[str]:
    return sorted(entry.name for entry in store.list())


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    with mirrored(str(tmp_path), rank=0) as folder:
        assert folder == str(tmp_path)


def test_a_stopped_run_continues_on_another_machine(bucket: LocalStore, tmp_path: Path) -> None:
    stop_after(10)
    shutil.rmtree(tmp_path / "scratch")  # the machine is lost
    with mirrored(OUT, rank=1) as folder:
        root = Path(folder)
        assert (root / "checkpoints" / "step-00000010" / "weights").read_bytes() == b"w" * 10
        assert (root / "metrics.jsonl").read_text() == '{"step":10}\n'
    stop_after(20)
    assert names(bucket) == [
        f"{PARTIAL}/2/checkpoints/step-00000020/weights",
        f"{PARTIAL}/2/metrics.jsonl",
        SNAPSHOT,
    ]


def test_a_snapshot_that_a_kill_cut_off_is_not_seen(bucket: LocalStore, tmp_path: Path) -> None:
    stop_after(10)
    write_bytes(bucket, f"{PARTIAL}/2/checkpoints/step-00000020/weights", b"half")
    shutil.rmtree(tmp_path / "scratch")
    with mirrored(OUT, rank=1) as folder:
        assert [path.name for path in (Path(folder) / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_checkpoint_that_is_replaced_while_it_is_copied_is_tried_again(
    bucket: LocalStore, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    copier = module._Mirror(folder, bucket)
    checkpoint(folder, 10)
    link = module.os.link

    def vanish(*arguments: object) -> None:
        monkeypatch.setattr(module.os, "link", link)
        checkpoint(folder, 20)
        raise FileNotFoundError

    monkeypatch.setattr(module.os, "link", vanish)
    copier.look()
    assert names(bucket) == []
    copier.look()
    assert f"{PARTIAL}/1/checkpoints/step-00000020/weights" in names(bucket)


def sealed(store: Path, weights: bytes) -> ModelRecord:
    file = write_bytes(LocalStore(store), "model.safetensors", weights)
    record = ModelRecord.seal(
        work=ModelWork(benchmark="dclm", scale="tiny", recipe={}, seed=0),
        parents={"packed": "0" * 32},
        outputs=[file],
        made_by=made_by(now()),
    )
    write_bytes(LocalStore(store), "record.json", record.to_json())
    return record


def test_a_finished_model_replaces_its_snapshots(bucket: LocalStore) -> None:
    with mirrored(OUT, rank=0) as folder:
        checkpoint(Path(folder), 10)
        shutil.rmtree(Path(folder) / "checkpoints")
        record = sealed(Path(folder), b"weights")
    assert names(bucket) == ["metrics.jsonl", "model.safetensors", "record.json"]
    assert not Path(working_folder(OUT)).exists()
    with mirrored(OUT, rank=0) as folder:  # a second run has the record and does nothing
        assert (Path(folder) / "record.json").read_bytes() == record.to_json()


def test_a_model_is_copied_once_and_checked(bucket: LocalStore) -> None:
    sealed(bucket.root, b"weights")
    folder = Path(local_model(OUT))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    bucket.remove("model.safetensors")
    assert local_model(OUT) == str(folder)


def test_a_changed_file_is_refused(bucket: LocalStore, tmp_path: Path) -> None:
    write_bytes(bucket, "weights", b"other")
    with pytest.raises(RecordError, match="not the file that its record names"):
        download(bucket, "weights", tmp_path / "weights", sha256=sha256_bytes(b"weights"))
    assert list(tmp_path.glob("*weights*")) == []


def test_several_machines_need_a_scratch_folder_that_all_see(monkeypatch) -> None:
    monkeypatch.delenv("CURATION_SCRATCH", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(PlanError, match="set CURATION_SCRATCH"), mirrored(OUT, rank=0):
        pass
