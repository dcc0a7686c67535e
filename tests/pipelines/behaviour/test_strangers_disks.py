"""Disks and folders as they are elsewhere: full, read-only, without a right, changing meanwhile."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from pipelines.engine.run import run
from pipelines.errors import PlatformError
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from pipelines.storage.base import StorageError


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        lines = [orjson.dumps({"text": f"{name} {os.urandom(40).hex()}"}) for _ in range(50)]
        (folder / name).write_bytes(b"\n".join(lines))
    return folder


def curate(pool: Path, out: Path) -> None:
    run(Pipeline.from_steps(["count_words"]), open_pool(str(pool)), out=str(out))


def test_a_full_disk_is_a_line_and_the_same_command_ends_the_run(
    pool: Path, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text("steps: [count_words]\n")
    out = tmp_path / "out"
    arguments = ["run", str(tmp_path / "p.yaml"), "--input", str(pool), "--out", str(out)]
    command = [sys.executable, "-m", "pipelines", *arguments]
    small = 2500  # bytes: run.json fits, a shard of 4,000 random bytes does not
    full = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert full.returncode == 1
    assert "free space or choose another --out" in full.stderr
    assert "Traceback" not in full.stderr
    assert not list(out.rglob(".part-*"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("folder", ["/proc/out", "/dev/null/out"])
def test_a_place_that_cannot_be_written_is_said(pool: Path, folder: str) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("no /proc")
    with pytest.raises(StorageError, match=f"cannot write {folder}.*choose a folder that can be"):
        curate(pool, Path(folder))


def test_a_shard_that_is_removed_between_listing_and_reading_is_named(
    pool: Path, tmp_path: Path
) -> None:
    listed = open_pool(str(pool))
    (pool / "b.jsonl").unlink()
    with pytest.raises((PlatformError, FileNotFoundError), match=r"b\.jsonl"):
        run(Pipeline.from_steps(["count_words"]), listed, out=str(tmp_path / "out"))


def test_a_file_name_that_is_not_utf8_is_named(pool: Path, tmp_path: Path) -> None:
    os.rename(os.fsencode(pool / "b.jsonl"), os.fsencode(pool) + b"/caf\xe9.jsonl")
    with pytest.raises(ShardError, match=r"'caf\\udce9.jsonl' is not UTF-8.*rename"):
        curate(pool, tmp_path / "out")
