"""Pairs are curated by the engine of documents: duplicates, resuming, reports, odd operators."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datacomp.curation.curate import curate
from pipelines.assets.catalogue import Assets
from pipelines.engine.row_steps import OperatorFailed
from pipelines.engine.run import retry
from pipelines.engine.run_folder import read_run
from pipelines.errors import PipelineError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.execution.monitor import ShardsFailed
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.pipeline import Pipeline
from tests.datacomp.image_pool import write_images
from tests.datacomp.pair_tables import kept, write_captions, write_tables

# ---- one engine: what pipelines over documents have, pairs have too


def test_captions_are_deduplicated_over_all_tables(tmp_path: Path) -> None:
    folder = write_captions(tmp_path / "in", [["a cat", "a dog", "a cat"], ["a dog", "a cow"]])
    out = tmp_path / "out"
    result = curate(
        Pipeline.from_steps([{"exact_dedup": {}}]),
        open_pool(str(folder)),
        out=str(out),
        map_tasks=map_here,
    )
    assert kept(out) == [(0, 0), (0, 1), (1, 1)]
    assert result.record.counts["rejected/1/exact_dedup/duplicate"] == 2
    pairs_ = [pq.read_table(file).to_pylist() for file in sorted(out.glob("duplicates/*.parquet"))]
    dropped = sorted((item["row"], item["kept_row"]) for part in pairs_ for item in part)
    assert dropped == [(2, 0), (1 << 32, 1)]


def test_near_duplicate_captions_are_found(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    folder = write_captions(tmp_path / "in", [[long, "something else"], [f"{long} thirteen"]])
    out = tmp_path / "out"
    near = {"minhash_dedup": {"ngram": 2, "bands": 50, "rows": 2, "verify": 0.7}}
    curate(Pipeline.from_steps([near]), open_pool(str(folder)), out=str(out), map_tasks=map_here)
    assert kept(out) == [(0, 0), (0, 1)]


OPERATORS = """
from pipelines.operators import Filter, Modifier, because
import numpy as np
import pyarrow as pa


class Typo(Filter):
    \"\"\"Gives a reason that it does not declare.\"\"\"

    reasons = ("declared",)

    def reject(self, batch):
        return because(np.ones(batch.num_rows, bool), "undeclared")


class Sneaky(Modifier):
    \"\"\"Writes a column that it does not declare.\"\"\"

    def modify(self, batch):
        return {"surprise": pa.nulls(batch.num_rows, pa.int64())}


class Raises(Filter):
    \"\"\"Raises on one caption.\"\"\"

    reasons = ("never",)

    def reject(self, batch):
        if "bad" in batch.text.to_pylist():
            raise KeyError("licence")
        return because(np.zeros(batch.num_rows, bool), "never")


class Length(Modifier):
    \"\"\"Number of characters.\"\"\"

    def writes(self):
        return {"length": pa.int64()}

    def modify(self, batch):
        return {"length": pa.array([len(t) for t in batch.text.to_pylist()], pa.int64())}


class Short(Filter):
    \"\"\"Rejects by a column that an earlier pass wrote.\"\"\"

    reasons = ("short",)

    def reads(self):
        return ("length",)

    def reject(self, batch):
        return because(batch.column("length").to_numpy() < 3, "short")
"""


def own(tmp_path: Path, *steps: Any, name: str = "own") -> Pipeline:
    """A pipeline of the operators above."""
    (tmp_path / "mine.py").write_text(OPERATORS)
    spec = {"name": name, "steps": list(steps)}
    (tmp_path / "own.yaml").write_text(json.dumps(spec))  # JSON is YAML
    return Pipeline.load(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("mine.py:Typo", "gave the reasons ['undeclared'], but mine.py:Typo declares only"),
        ("mine.py:Sneaky", "modify wrote the column 'surprise', but mine.py:Sneaky declares []"),
        ("mine.py:Raises", "step 1 (mine.py:Raises) on shard 01.parquet, row 1"),
    ],
)
def test_a_broken_operator_is_named_with_table_and_row(
    tmp_path: Path, step: str, says: str
) -> None:
    folder = write_captions(tmp_path / "in", [["a", "b"], ["c", "bad"]])
    with pytest.raises(OperatorFailed) as error:
        curate(
            own(tmp_path, step),
            open_pool(str(folder)),
            out=str(tmp_path / "out"),
            map_tasks=map_here,
        )
    assert says in str(error.value)


def test_a_row_on_which_an_operator_raises_is_set_aside(tmp_path: Path) -> None:
    folder = write_captions(tmp_path / "in", [["a", "b"], ["c", "bad"]])
    out = tmp_path / "out"
    pipeline = own(tmp_path, "mine.py:Raises")
    curate(pipeline, open_pool(str(folder)), out=str(out), map_tasks=map_here, quarantine=True)
    assert kept(out) == [(0, 0), (0, 1), (1, 0)]
    [aside] = [file.read_text() for file in out.glob("quarantine/*.jsonl")]
    assert json.loads(aside)["content"]["text"] == "bad"


def test_a_column_that_a_step_wrote_reaches_later_passes(tmp_path: Path) -> None:
    """Select by it ends the pass; the filter behind reads it, and the caption, again."""
    captions = [["a", "bb", "ccc", "dddd"], ["eeeee", "f"]]
    folder = write_captions(tmp_path / "in", captions)
    out = tmp_path / "out"
    select = {"select": {"by": "length", "total": 5}}
    pipeline = own(tmp_path, "mine.py:Length", select, "mine.py:Short", "mine.py:Raises")
    curate(pipeline, open_pool(str(folder)), out=str(out), map_tasks=ProcessMap(2))
    assert kept(out) == [(0, 2), (0, 3), (1, 0)]


def test_a_run_over_pairs_has_status_why_and_report(tmp_path: Path) -> None:
    from pipelines.reports import run_page
    from pipelines.reports.why import fates
    from pipelines.storage.open import open_store

    folder = write_captions(
        tmp_path / "in", [["a cat on a mat", "a dog in a car"], ["a cat on a mat", "no"]]
    )
    out = tmp_path / "out"
    pipeline = Pipeline.from_steps([{"caption_size": {"min_words": 2}}, "exact_dedup"], name="p")
    result = curate(pipeline, open_pool(str(folder)), out=str(out), map_tasks=map_here)
    store = open_store(str(out))
    [short] = fates(store, f"{1:016x}{1:016x}")
    assert (short.fate, short.step, short.shard, short.number) == ("rejected", 1, 1, 1)
    [twin] = fates(store, f"{1:016x}{0:016x}")
    assert (twin.fate, twin.operator) == ("rejected", "exact_dedup")
    [first] = fates(store, f"{0:032x}")
    assert first.fate == "kept"
    page = run_page.report_html(store, result.record, result.summary)
    assert "http://images.example/1/1" in page
    assert read_run(store).num_shards == 2


def test_a_run_over_pairs_resumes_from_its_folder(tmp_path: Path) -> None:
    folder = write_captions(tmp_path / "in", [["a", "b"], ["c", "d"]])
    damaged = folder / "01.parquet"
    whole = damaged.read_bytes()
    pool = open_pool(str(folder))
    damaged.write_bytes(whole[:40])
    out = tmp_path / "out"
    with pytest.raises(ShardsFailed, match=r"01\.parquet"):
        curate(Pipeline.from_steps([]), pool, out=str(out), map_tasks=map_here, max_failed_shards=1)
    damaged.write_bytes(whole)
    retry(str(out))
    assert kept(out) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_damaged_tables_and_features_never_pass(tmp_path: Path) -> None:
    """Seeded mutations: an error that names the file, or the result of a table that still reads."""
    folder = write_tables(tmp_path / "in", tables=1, rows=200)
    np.save(tmp_path / "c.npy", np.eye(8, dtype=np.float32))
    near = {"near_targets": {"centroids": "c.npy", "targets": "c.npy"}}
    steps = [{"picture_size": {}}, near]
    pipeline = Pipeline.from_steps(steps, assets=Assets(folders=(tmp_path,)))
    rng = np.random.default_rng(0)
    originals = {name: (folder / name).read_bytes() for name in ("00.parquet", "00.npz")}
    outcomes = {"refused": 0, "read": 0}
    for attempt in range(400):
        name = ("00.parquet", "00.npz")[attempt % 2]
        data = bytearray(originals[name])
        if rng.random() < 0.3:
            data = data[: rng.integers(0, len(data))]
        for position in rng.integers(0, max(len(data), 1), rng.integers(1, 6)).tolist():
            if data:
                data[position % len(data)] = int(rng.integers(0, 256))
        for other, content in originals.items():
            (folder / other).write_bytes(content)
        (folder / name).write_bytes(bytes(data))
        out = tmp_path / f"out{attempt}"
        try:
            pool = open_pool(str(folder))
            done = curate(pipeline, pool, out=str(out), map_tasks=map_here)
        except (ShardError, PipelineError) as error:
            outcomes["refused"] += str(folder) in str(error) or "00." in str(error)
            continue
        done.summary.stats.check()
        outcomes["read"] += 1
    assert sum(outcomes.values()) == 400
    assert outcomes["refused"] > 100


def test_the_report_shows_the_images_of_rejected_pairs_from_the_tars(tmp_path: Path) -> None:
    from pipelines.reports import run_page
    from pipelines.storage.open import open_store

    write_images(tmp_path / "pool", tars=1, per_tar=6, broken=1)
    pipeline = Pipeline.from_steps([{"caption_size": {"min_words": 20}}], name="<b>")
    out = tmp_path / "out"
    result = curate(
        pipeline, open_pool(str(tmp_path / "pool" / "metadata")), out=str(out), map_tasks=map_here
    )
    page = run_page.report_html(open_store(str(out)), result.record, result.summary)
    shown = re.findall(r'<img alt="" src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)">', page)
    assert len(shown) == run_page.SAMPLES - 1  # the first of three samples does not decode
    with Image.open(io.BytesIO(base64.b64decode(shown[0]))) as image:
        assert image.size == (48, 48)  # smaller than a thumbnail: kept as it is
    assert "<b>" not in page


def test_thumbnails_are_bounded_and_found_by_the_table_next_to_a_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.reports import sample_images

    pool = tmp_path / "pool"
    uids = write_images(pool, tars=2, per_tar=4)
    rows = [
        {"uid": uid, "key": f"{0:05d}{n:04d}", "status": "success" if n else "failed_to_download"}
        for n, uid in enumerate(uids[:4])
    ]
    pq.write_table(pa.Table.from_pylist(rows), pool / "shards" / "00000000.parquet")
    tables = str(pool / "metadata")
    # By the table only rows 1 to 3 of the first tar have an image; the second tar has no table.
    assert set(sample_images.thumbnails(tables, uids)) == set(uids[1:])
    assert sample_images.thumbnails(tables, ["0" * 32]) == {}
    assert sample_images.thumbnails(str(tmp_path / "nothing"), uids) == {}
    monkeypatch.setattr(sample_images, "MAX_LOCAL_BYTES", 1)
    assert sample_images.thumbnails(tables, uids) == {}
    monkeypatch.undo()
    monkeypatch.setattr(sample_images, "MAX_PAGE_BYTES", 1)
    assert sample_images.thumbnails(tables, uids) == {}
