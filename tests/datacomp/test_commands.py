"""The `datacomp` command as a person types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from datacomp import pool_commands
from pipelines.errors import PoolError
from tests.datacomp.pair_tables import write_tables
from tests.pipelines.images.made_up_tars import write_pool, write_subset


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "datacomp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_curate_and_its_report(tmp_path: Path) -> None:
    write_tables(tmp_path / "in")
    (tmp_path / "mine.yaml").write_text("name: mine\nsteps:\n  - picture_size: {}\n")
    out = tmp_path / "out"
    given = ["--pool", str(tmp_path / "in"), "--out", str(out)]
    done = call("curate", str(tmp_path / "mine.yaml"), *given)
    assert done.returncode == 0, done.stderr
    assert "picture_size" in done.stdout
    kept = len(np.load(out / "subset.npy"))
    assert f"{kept:,} of 1,500 rows" in done.stdout
    assert "too_small" in (out / "report.html").read_text()
    wrong = call("curate", "nothing", *given)
    assert wrong.returncode == 2
    assert "basic_filter" in wrong.stderr


def test_pack_counts_and_refuses(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "in", tars=2, per_tar=10)
    subset = write_subset(tmp_path / "s.npy", [*uids[:5], "f" * 32])
    given = ["--input", str(tmp_path / "in"), "--subset", subset, "--out", str(tmp_path / "out")]
    dry = call("pack", *given, "--dry-run", "--json")
    assert orjson.loads(dry.stdout)["output_count"] == 5
    done = call("pack", *given)
    assert done.returncode == 0, done.stderr
    assert "uids of the list that no sample has" in done.stdout
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    refused = call("pack", *given[:-1], str(tmp_path / "full"))
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr


def test_kmeans_writes_an_asset(tmp_path: Path) -> None:
    write_tables(tmp_path / "in")
    file = tmp_path / "c.npy"
    done = call("kmeans", "--pool", str(tmp_path / "in"), "--out", str(file), "--clusters", "4")
    assert done.returncode == 0, done.stderr
    assert np.load(file).shape == (4, 8)


def test_a_download_that_gives_nothing_is_no_success(tmp_path):
    tables = tmp_path / "t"
    tables.mkdir()
    rows = {"url": ["http://127.0.0.1:9/a.jpg"], "text": ["a"]}
    pq.write_table(pa.table(rows), tables / "a.parquet")
    made = CliRunner().invoke(
        pool_commands.app, ["download", "--tables", str(tables), "--out", str(tmp_path / "o")]
    )
    assert isinstance(made.exception, PoolError)
    assert "not one of the 1 rows gave an image" in str(made.exception)
    assert "refused_address" in made.output
