"""A viewer repeats a sample of an entry, from the bundle alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from leaderboard.service.sample import recheck_sample, seen_with
from leaderboard.submissions import uids
from leaderboard.submissions.bundle import open_bundle
from pipelines.errors import RuleError
from tests.leaderboard.made_up import make_folder


def ids_of(count: int, chance: int = 0) -> np.ndarray:
    """The list that the builder describes."""
    rng = np.random.default_rng([7, chance])
    ids = np.empty(count, uids.RECORDS)
    for half in ("f0", "f1"):
        ids[half] = rng.integers(0, 1 << 64, count, dtype=np.uint64)
    return np.sort(ids)


def test_the_probability_is_that_of_a_sample_without_any_of_the_altered() -> None:
    assert seen_with(50) == pytest.approx(1 - 0.99**50)
    assert seen_with(10_000) == pytest.approx(1.0)


def test_uids_of_the_pool_are_found_and_foreign_ones_are_told(tmp_path: Path) -> None:
    bundle = open_bundle(make_folder(tmp_path, benchmark="datacomp", rows=400))
    assert bundle.manifest.uids is not None
    ids = ids_of(bundle.manifest.uids.count)
    np.save(tmp_path / "pool.npy", ids)
    np.save(tmp_path / "part.npy", ids[::2])
    result = recheck_sample(
        bundle, pool=str(tmp_path / "pool.npy"), uids=str(tmp_path / "pool.npy")
    )
    assert result.faults == ()
    assert "300 uids looked up, 0 not in the pool" in result.lines[1]  # 1% of 30,000
    result = recheck_sample(bundle, pool=str(tmp_path / "part.npy"))
    assert len(result.faults) == 1
    assert "10,000 uids looked up" in result.lines[1]


def test_another_list_than_the_submitted_one_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(make_folder(tmp_path, benchmark="datacomp", rows=400))
    np.save(tmp_path / "other.npy", ids_of(100, 9))
    [fault] = recheck_sample(
        bundle, pool=str(tmp_path / "other.npy"), uids=str(tmp_path / "other.npy")
    ).faults
    assert fault.found == "another list"


def test_a_list_is_asked_for_only_where_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="has no list of uids"):
        recheck_sample(open_bundle(make_folder(tmp_path)), pool="pool.npy")


def test_a_sketch_that_leaves_out_uids_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, benchmark="datacomp", rows=400)
    manifest = orjson.loads((folder / "bundle.json").read_bytes())
    sketch = manifest["uids"]["sketch"]
    assert len(sketch) == uids.SKETCH
    manifest["uids"]["sketch"] = [item + 1 for item in sketch]
    (folder / "bundle.json").write_bytes(orjson.dumps(manifest))
    [fault] = recheck_sample(open_bundle(folder)).faults
    assert fault.rule == "form.uids"
