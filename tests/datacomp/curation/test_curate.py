"""Lists of uids: equal to the reference's, for any number of workers, and refused input."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp.curation.curate import curate
from pipelines import kernels
from pipelines.assets.catalogue import AssetError, Assets
from pipelines.engine.row_steps import OperatorFailed
from pipelines.errors import PipelineError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats.pool import open_pool
from pipelines.formats.shards import ShardError
from pipelines.formats.uid_subset import bucket_of
from pipelines.images import pairs
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from tests.datacomp.pair_tables import uids_of, write_tables

BASELINES = Path(__file__).parents[3] / "datacomp" / "baselines"
ENGLISH = {"caption_language": {"keep": ["en"], "model": "column", "column": "fasttext_ftz"}}
NEAR = {"near_targets": {"centroids": "centroids.npy", "targets": "target_embeddings.npy"}}
TOKENS = {"caption_size": {"min_words": 2, "min_characters": 6, "words": "fasttext"}}


def share(arch: str, fraction: float) -> dict[str, Any]:
    by = f"clip_{arch}_similarity_score"
    return {"select": {"by": by, "fraction": fraction, "ties": "reference", "missing": "drop"}}


CASES: dict[str, list[Any]] = {
    "no_filter": [],
    "basic_filter": [ENGLISH, {"caption_size": {}}, {"picture_size": {}}],
    "clip_l14_f30": [share("l14", 0.3)],
    "clip_l14_f01": [share("l14", 0.01)],
    "clip_b32_f30": [share("b32", 0.3)],
    "clip_b32_t25": [{"clip_score": {"arch": "b32", "min_score": 0.25}}],
    "clip_b32_t28": [{"clip_score": {"arch": "b32", "min_score": 0.28}}],
    "clip_l14_t0243": [{"clip_score": {"arch": "l14", "min_score": 0.243}}],
    "laion2b": [
        {"clip_score": {"arch": "b32", "min_score": 0.28}},
        {"caption_language": {"keep": ["en"], "model": "column", "column": "gcld3"}},
    ],
    "text_based": [ENGLISH, "synset_words"],
    "image_based": [ENGLISH, TOKENS, NEAR],
    "image_based_x_l14_f30": [share("l14", 0.3), ENGLISH, TOKENS, NEAR],
    "image_based_x_b32_t25": [
        {"clip_score": {"arch": "b32", "min_score": 0.25}},
        ENGLISH,
        TOKENS,
        NEAR,
    ],
}


@pytest.fixture(scope="module")
def recorded(fixtures: Path) -> Path:
    return fixtures / "datacomp" / "filters"


@pytest.fixture(scope="module")
def labelled(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded pool with the labels that the reference's language models gave."""
    folder = tmp_path_factory.mktemp("pool") / "metadata"
    folder.mkdir()
    facts = pq.read_table(recorded / "row_facts.parquet")
    for file in sorted((recorded / "metadata").iterdir()):
        if file.suffix != ".parquet":
            shutil.copy(file, folder / file.name)
            continue
        table = pq.read_table(file)
        here = facts.filter(pa.compute.equal(facts["shard"], file.name))
        for name in ("fasttext_ftz", "gcld3"):
            table = table.append_column(name, here[name])
        pq.write_table(table, folder / file.name)
    return folder


def needed(recorded: Path) -> Assets:
    """The recorded centroids, and WordNet where it is installed."""
    return Assets(folders=(recorded, Path("/usr/share/wordnet")))


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(CASES))
def test_lists_are_those_of_the_reference(
    name: str, recorded: Path, labelled: Path, tmp_path: Path
) -> None:
    pipeline = Pipeline.from_steps(CASES[name], name=name, assets=needed(recorded))
    try:
        for step in pipeline.steps:
            step.operator.load(pipeline.assets)
    except AssetError as error:
        pytest.skip(str(error))
    pool = open_pool(str(labelled))
    out = tmp_path / "out"
    result = curate(pipeline, pool, out=str(out), map_tasks=map_here)
    expected = recorded / "expected" / f"{name}.npy"
    assert (out / "subset.npy").read_bytes() == expected.read_bytes()
    assert result.record.counts["rows_out"] == len(np.load(expected))


@pytest.mark.parity
def test_the_compiled_language_model_gives_the_reference_labels(
    recorded: Path, tmp_path: Path
) -> None:
    facts = pq.read_table(recorded / "row_facts.parquet")
    expected = sorted(
        facts.filter(pa.compute.equal(facts["fasttext_ftz"], "en"))["uid"].to_pylist()
    )
    pipeline = Pipeline.from_steps(["caption_language"], assets=needed(recorded))
    try:
        pipeline.steps[0].operator.load(pipeline.assets)
    except AssetError as error:
        pytest.skip(str(error))
    pool = open_pool(str(recorded / "metadata"))
    curate(pipeline, pool, out=str(tmp_path / "out"), map_tasks=map_here)
    assert strings(np.load(tmp_path / "out" / "subset.npy")) == expected


def strings(subset: npt.NDArray[Any]) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in subset.tolist()]


# ---- pools made here


@pytest.mark.parametrize("buckets", [1, 7])
def test_any_number_of_workers_and_parts_writes_the_same_bytes(
    tmp_path: Path, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.engine import run as module

    folder = write_tables(tmp_path / "in")
    pool = open_pool(str(folder))
    steps = [{"picture_size": {}}, share("l14", 0.5)]
    pipeline = Pipeline.from_steps(steps, name="p")
    first = curate(pipeline, pool, out=str(tmp_path / "one"), map_tasks=map_here)
    monkeypatch.setattr(module, "PARTITION_BYTES", 1 + pool.num_bytes // buckets)
    second = curate(pipeline, pool, out=str(tmp_path / "two"), map_tasks=ProcessMap(2))
    assert first.record.id == second.record.id
    assert first.summary.stats == second.summary.stats
    written = (tmp_path / "one" / "subset.npy").read_bytes()
    assert written == (tmp_path / "two" / "subset.npy").read_bytes()
    assert not list((tmp_path / "two").glob("work/*"))
    again = curate(pipeline, pool, out=str(tmp_path / "two"), map_tasks=map_here)
    assert again.skipped


def test_no_step_keeps_every_uid_as_often_as_it_stands(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "in")
    out = tmp_path / "out"
    curate(Pipeline.from_steps([]), open_pool(str(folder)), out=str(out), map_tasks=map_here)
    subset = np.load(out / "subset.npy")
    assert subset.dtype == kernels.uids.SUBSET
    assert strings(subset) == uids_of(folder)
    assert len(set(strings(subset))) == len(subset) - 3


def test_only_columns_that_a_step_reads_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    plain = pairs.read_table

    def watched(store: Any, name: str, columns: Any, **options: Any) -> Any:
        asked.append(sorted(columns))
        return plain(store, name, columns, **options)

    monkeypatch.setattr("pipelines.sources.read_table", watched)
    folder = write_tables(tmp_path / "in", tables=1)
    steps = [share("l14", 0.5), {"picture_size": {}}]
    out = str(tmp_path / "out")
    curate(Pipeline.from_steps(steps), open_pool(str(folder)), out=out, map_tasks=map_here)
    scores = ["clip_l14_similarity_score", "uid"]
    samples = ["text"]  # one batch of the table, for the report's rejected rows
    sizes = ["original_height", "original_width", "uid"]
    assert asked == [scores, sizes, samples]


def test_a_threshold_is_compared_in_the_precision_of_the_column(tmp_path: Path) -> None:
    for number, type_ in enumerate((np.float32, np.float64)):
        scores = np.full(500, 0.28, dtype=type_)
        folder = write_tables(tmp_path / f"in{number}", tables=1, clip_l14_similarity_score=scores)
        steps = [{"clip_score": {"arch": "l14", "min_score": 0.28}}]
        out = str(tmp_path / f"out{number}")
        pool = open_pool(str(folder))
        result = curate(Pipeline.from_steps(steps), pool, out=out, map_tasks=map_here)
        assert result.record.counts["rows_out"] == 500


def test_scores_that_are_missing_go_and_are_counted(tmp_path: Path) -> None:
    scores = np.linspace(0, 1, 500)
    scores[::10] = np.nan
    folder = write_tables(tmp_path / "in", tables=1, clip_l14_similarity_score=scores)
    steps = [{"clip_score": {"arch": "l14", "min_score": 0.5}}]
    out = str(tmp_path / "out")
    pool = open_pool(str(folder))
    stats = curate(Pipeline.from_steps(steps), pool, out=out, map_tasks=map_here).summary.stats
    assert stats.step(0).reasons["no_score"] == 50
    assert stats.rows_out + stats.step(0).rejected == 500


# ---- what is refused


@pytest.mark.parametrize(
    "uid", ["", "abc", "A" * 32, "g" * 32, "0" * 33, None, "\u0660" * 32, "0" * 31 + "\n"]
)
def test_a_row_without_a_uid_is_refused_or_set_aside(tmp_path: Path, uid: str | None) -> None:
    uids: list[str | None] = [f"{n:032x}" for n in range(500)]
    uids[7] = uid
    folder = write_tables(tmp_path / "in", tables=1, uid=pa.array(uids, STRING))
    pipeline, pool = Pipeline.from_steps([]), open_pool(str(folder))
    with pytest.raises(ShardError, match=r"record 8: the uid is (.|\n)*, expected 32 lower-case"):
        curate(pipeline, pool, out=str(tmp_path / "a"), map_tasks=map_here)
    done = curate(pipeline, pool, out=str(tmp_path / "b"), map_tasks=map_here, quarantine=True)
    assert done.record.counts == {"rows_in": 500, "rows_out": 499, "errors": 1}


def test_missing_columns_and_features_are_named(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "in", tables=1)
    pool = open_pool(str(folder))
    with pytest.raises(PipelineError, match=r"no column 'clip_b32_similarity_score'"):
        curate(
            Pipeline.from_steps([{"clip_score": {"arch": "b32", "min_score": 0}}]),
            pool,
            out=str(tmp_path / "a"),
            map_tasks=map_here,
        )
    near = {"near_targets": {"centroids": "c.npy", "targets": "c.npy"}}
    np.save(tmp_path / "c.npy", np.eye(8, dtype=np.float32))
    pipeline = Pipeline.from_steps([near], assets=Assets(folders=(tmp_path,)))

    def refused(match: str) -> None:
        with pytest.raises((ShardError, PipelineError, OperatorFailed), match=match):
            curate(pipeline, pool, out=str(tmp_path / "b"), map_tasks=map_here)

    npz = folder / "00.npz"
    whole = npz.read_bytes()
    np.savez(npz, l14_img=np.zeros((499, 8), np.float16))
    refused("499 rows, but the table next to it has 500")
    by_columns = np.asfortranarray(np.zeros((500, 8), np.float16))
    for save in (np.savez, np.savez_compressed):
        save(npz, l14_img=by_columns)
        refused(r"00\.npz, array l14_img: stored by columns; save numpy\.ascontiguousarray")
    for odd in ("i4", "c8", "U4", "O", "M8[s]", "?"):
        np.savez(npz, l14_img=np.zeros((500, 8)).astype(odd))
        refused(r"00\.npz, array l14_img: expected floats of shape \(rows, dim\)")
    for shape in ((500,), (500, 0), (500, 1, 8), ()):
        np.savez(npz, l14_img=np.zeros(shape, np.float16))
        refused(r"00\.npz, array l14_img: expected floats of shape \(rows, dim\)")
    np.savez(npz, b32_img=np.zeros((500, 8), np.float16))
    refused("there is no such array")
    np.savez(npz, l14_img=np.zeros((500, 9), np.float16))
    refused("has 9 numbers per image, the centroids have 8")
    npz.write_bytes(whole[: len(whole) // 2])
    refused("00.npz")
    npz.unlink()
    refused("is missing: a step reads 'l14_img'")


def test_a_splitter_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "in", tables=1)
    with pytest.raises(PipelineError, match=r"split_lines.* is a splitter"):
        curate(
            Pipeline.from_steps(["split_lines"]),
            open_pool(str(folder)),
            out=str(tmp_path / "out"),
            map_tasks=map_here,
        )


# ---- order


def test_uids_sort_as_their_digits_do() -> None:
    rng = np.random.default_rng(5)
    high = rng.integers(0, 50, 4000).astype(np.uint64) << np.uint64(58)
    low = rng.integers(0, 1 << 63, 4000).astype(np.uint64)
    low[::3] = low[0]
    order = kernels.uids.order(high, low)
    made = list(zip(high[order].tolist(), low[order].tolist(), strict=True))
    assert made == sorted(zip(high.tolist(), low.tolist(), strict=True))
    for buckets in (1, 2, 7, 1000):
        parts = bucket_of(high[order], buckets)
        assert (np.diff(parts) >= 0).all()
        assert parts.max() < buckets


def test_baselines_are_pipelines() -> None:
    published = 0
    for file in BASELINES.glob("*.yaml"):
        pipeline = Pipeline.load(file)
        assert pipeline.name == file.stem
        published += "Gadre et al. 2023" in pipeline.description
    assert published == 10


@pytest.mark.parametrize("ties", ["row", "keep", "reference"])
def test_tables_that_are_counted_together_have_the_same_cut(
    ties: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tables(tmp_path / "in", tables=5, rows=60)
    for path in folder.glob("*.parquet"):  # many rows of one score
        table = pq.read_table(path)
        scores = np.round(table.column("clip_l14_similarity_score").to_numpy(), 1)
        column_index = table.schema.get_field_index("clip_l14_similarity_score")
        table = table.set_column(column_index, "clip_l14_similarity_score", pa.array(scores))
        pq.write_table(table, path)
    by = {"by": "clip_l14_similarity_score", "fraction": 0.37, "ties": ties, "missing": "drop"}
    lists = []
    for name, most in (("one", 1000), ("two", 2), ("all", 1)):
        monkeypatch.setattr("pipelines.global_steps.exact_cut.MAX_COUNTS", most)
        pipeline = Pipeline.from_steps([{"select": by}])
        out = tmp_path / name
        curate(pipeline, open_pool(str(folder)), out=str(out), map_tasks=map_here)
        lists.append((out / "subset.npy").read_bytes())
    assert lists[0] == lists[1] == lists[2]


def test_captions_with_nul_pass_and_captions_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "in", tables=1, rows=3)
    path = next(folder.glob("*.parquet"))
    whole = pq.read_table(path)
    column_index = whole.schema.get_field_index("text")
    pipeline = Pipeline.from_steps([{"caption_size": {"min_words": 2, "min_characters": 3}}])
    for name, raw, kept in (
        ("nul", [b"two\x00words here", b"\x00", b"\x00 \x00"], 2),
        ("surrogate", [b"a lone \xed\xa0\x80 half", b"b", b"c"], None),
        ("cut", [b"cut off \xe2\x82", b"b", b"c"], None),
    ):
        offsets = np.cumsum([0, *map(len, raw)]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(raw))]
        column = pa.Array.from_buffers(pa.string(), 3, buffers)
        pq.write_table(whole.set_column(column_index, "text", column), path)
        out = str(tmp_path / name)
        if kept is None:
            with pytest.raises(ShardError, match="damaged"):
                curate(pipeline, open_pool(str(folder)), out=out, map_tasks=map_here)
        else:
            done = curate(pipeline, open_pool(str(folder)), out=out, map_tasks=map_here)
            assert done.record.counts["rows_out"] == kept


def test_a_selection_by_a_column_that_is_empty_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "in", tables=2, rows=5)
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        column_index = table.schema.get_field_index("clip_l14_similarity_score")
        empty = pa.nulls(table.num_rows, pa.float64())
        pq.write_table(table.set_column(column_index, "clip_l14_similarity_score", empty), path)
    pipeline = Pipeline.from_steps([share("l14", 0.3)])
    with pytest.raises(PipelineError, match="none of the 10 rows has a score"):
        curate(pipeline, open_pool(str(folder)), out=str(tmp_path / "out"), map_tasks=map_here)
