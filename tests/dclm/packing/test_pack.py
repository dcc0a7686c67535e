"""Packing loses nothing, repeats exactly, and says what is wrong with its input."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import data_sets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dclm.packing import tokenizer
from dclm.packing.loader import Sequences
from dclm.packing.pack import pack, register
from dclm.training.train import train
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.formats import mix
from pipelines.formats.shards import ShardError
from pipelines.records import PackedRecord, RecordError, parse_record

DOCUMENTS = data_sets.sentences(400, seed=3)


def files_below(folder: Path) -> dict[str, bytes]:
    """What a packing stored, without when it was made: its record, and the times of its commits."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "record.json" and path.parent.name != "done"
    }


def ids_of(packed: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (packed / "manifest.jsonl").read_text().splitlines()]
    return np.concatenate([np.load(packed / "data" / f"{row['shard']}.npy") for row in rows])


def documents_in(sequences: np.ndarray, pad: int) -> Counter:
    """Whole documents that are inside one sequence, between two ends of text."""
    documents = Counter()
    for sequence in sequences.tolist():
        parts = ",".join(map(str, sequence)).split(",0,")
        documents.update(part for part in parts[1:-1] if str(pad) not in part.split(","))
    return documents


@pytest.fixture
def words(tmp_path: Path):
    recipe = data_sets.recipe(tmp_path)
    return recipe, data_sets.dataset(tmp_path / "dataset", DOCUMENTS, num_files=5)


def test_no_token_is_lost_and_one_sequence_is_padded(words, tmp_path: Path) -> None:
    recipe, dataset = words
    record = pack(dataset, recipe=recipe, out=str(tmp_path / "p"), map_tasks=map_here)
    encoder = tokenizer.load(recipe.tokenizer)
    expected = [[*ids, 0] for ids in encoder.encode(DOCUMENTS)]
    sequences = ids_of(tmp_path / "p")
    pad = recipe.tokenizer.pad
    assert sequences.dtype == np.uint16
    assert sequences.shape[1] == 33
    flat = Counter(sequences.ravel().tolist())
    num_pads = flat.pop(pad, 0)
    assert flat == Counter(np.concatenate(expected).tolist())
    assert num_pads == -sum(map(len, expected)) % 33
    assert (sequences == pad).any(axis=1).sum() <= 1
    assert not (sequences == pad).all(axis=1).any()
    assert record.counts == {
        "documents": 400,
        "tokens": sum(map(len, expected)),
        "sequences": len(sequences),
        "padding": num_pads,
    }


def test_documents_stay_whole_between_ends_of_text(words, tmp_path: Path) -> None:
    recipe, dataset = words
    pack(dataset, recipe=recipe, out=str(tmp_path / "p"), map_tasks=map_here)
    encoder = tokenizer.load(recipe.tokenizer)
    known = {",".join(map(str, ids)) for ids in encoder.encode(DOCUMENTS)}
    documents = documents_in(ids_of(tmp_path / "p"), recipe.tokenizer.pad)
    assert len(documents) > 10
    assert documents.keys() <= known


def test_a_mixture_packs_each_source_as_often_as_it_says(words, tmp_path: Path) -> None:
    recipe, dataset = words
    plain = pack(str(dataset), recipe=recipe, out=str(tmp_path / "plain"), map_tasks=map_here)
    sources = (mix.Source(dataset=str(dataset), name="a", repeat=2.5),)
    mixed = mix.mix(mix.Mixture(sources=sources), name="m", out=str(tmp_path / "m"))
    packed = pack(str(tmp_path / "m"), recipe=recipe, out=str(tmp_path / "p"), map_tasks=map_here)
    assert packed.parents["dataset"] == mixed.id
    assert packed.counts["documents"] == pytest.approx(2.5 * 400, abs=40)
    assert packed.counts["tokens"] == pytest.approx(2.5 * plain.counts["tokens"], rel=0.1)
    two = ProcessMap(2)
    again = pack(str(tmp_path / "m"), recipe=recipe, out=str(tmp_path / "q"), map_tasks=two)
    assert again.id == packed.id


@pytest.mark.parametrize("layout", ["npy", "open_lm"])
def test_any_number_of_workers_writes_the_same_bytes(words, tmp_path: Path, layout: str) -> None:
    recipe, dataset = words
    named = {"recipe": recipe, "layout": layout, "unit_bytes": 8000}
    first = pack(dataset, out=str(tmp_path / "one"), map_tasks=map_here, **named)
    second = pack(dataset, out=str(tmp_path / "two"), map_tasks=ProcessMap(2), **named)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")
    assert first.id == second.id
    assert len(first.outputs) > 3, "several shards and the manifest"


def test_every_seed_has_its_own_order_of_the_same_tokens(words, tmp_path: Path) -> None:
    recipe, dataset = words
    other = recipe.model_copy(update={"data_seed": 125})
    first = pack(dataset, recipe=recipe, out=str(tmp_path / "a"), map_tasks=map_here)
    second = pack(dataset, recipe=other, out=str(tmp_path / "b"), map_tasks=map_here)
    a, b = ids_of(tmp_path / "a"), ids_of(tmp_path / "b")
    assert first.counts == second.counts
    assert sorted(a.ravel().tolist()) == sorted(b.ravel().tolist())
    assert not np.array_equal(a, b)


def test_neighbours_of_the_data_set_are_spread_over_the_shards(words, tmp_path: Path) -> None:
    recipe, dataset = words
    named = {"recipe": recipe, "unit_bytes": 8000, "map_tasks": map_here}
    record = pack(dataset, out=str(tmp_path / "p"), **named)
    sizes = [file.num_rows for file in record.outputs[:-1]]
    mean = sum(sizes) / len(sizes)
    # Every sequence draws its shard: sizes are binomial, five standard deviations wide.
    assert all(abs(size - mean) < 5 * mean**0.5 for size in sizes)


def test_open_lm_layout_holds_the_same_sequences(words, tmp_path: Path) -> None:
    recipe, dataset = words
    pack(dataset, recipe=recipe, out=str(tmp_path / "a"), map_tasks=map_here)
    pack(dataset, recipe=recipe, out=str(tmp_path / "b"), map_tasks=map_here, layout="open_lm")
    a = Sequences(str(tmp_path / "a"), recipe=recipe)
    b = Sequences(str(tmp_path / "b"), recipe=recipe)
    assert a.num_sequences == b.num_sequences
    everything = 2 * a.num_sequences  # two passes
    assert np.array_equal(a.batch(0, everything), b.batch(0, everything))


def test_reference_mode_pads_every_file_even_if_nothing_is_over(tmp_path: Path) -> None:
    recipe = data_sets.recipe(tmp_path)
    encoder = tokenizer.load(recipe.tokenizer)
    documents = ["Q" * 20, "Q" * 11]  # no merge has a Q: 20 + 1 + 11 + 1 ids
    assert [len(ids) for ids in encoder.encode(documents)] == [20, 11]
    dataset = data_sets.dataset(tmp_path / "dataset", documents, num_files=1)
    out = tmp_path / "p"
    record = pack(dataset, recipe=recipe, out=str(out), map_tasks=map_here, mode="reference")
    sequences = ids_of(out)
    assert record.work.mode == "reference"
    assert sequences.shape == (2, 33)
    assert (sequences == recipe.tokenizer.pad).all(axis=1).sum() == 1


class StoppedError(RuntimeError):
    pass


def stop_after(count: int):
    """An executor that dies after `count` tasks."""
    done = []

    def map_some(function, items, *, on_result=None):
        results = []
        for item in items:
            if len(done) == count:
                raise StoppedError
            results.append(function(item))
            done.append(item)
        return results

    return map_some


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_a_killed_packing_continues_and_ends_equal(words, tmp_path: Path, count: int) -> None:
    recipe, dataset = words
    named = {"recipe": recipe, "unit_bytes": 8000}
    whole = pack(dataset, out=str(tmp_path / "whole"), map_tasks=map_here, **named)
    out = str(tmp_path / "p")
    with pytest.raises(StoppedError):
        pack(dataset, out=out, map_tasks=stop_after(count), **named)
    kept = {path.name for path in (tmp_path / "p").rglob("stage/*")}
    named_again = set()

    def watching(function, items, *, on_result=None):
        results = map_here(function, items)
        named_again.update(Path(file.name).name for done in results for file in done.files)
        return results

    record = pack(dataset, out=out, map_tasks=watching, **named)
    assert record.id == whole.id
    assert files_below(tmp_path / "p") == files_below(tmp_path / "whole")
    units_kept = {name for name in kept if not name.startswith("00000005")}  # without the rests
    assert units_kept <= named_again, "finished units were not made again"
    assert len(units_kept) == 2 * min(count, 5)


def test_finished_packing_is_returned_without_work(words, tmp_path: Path) -> None:
    recipe, dataset = words
    out = str(tmp_path / "p")
    first = pack(dataset, recipe=recipe, out=out, map_tasks=map_here)
    assert pack(dataset, recipe=recipe, out=out, map_tasks=stop_after(0)) == first
    stored = parse_record((tmp_path / "p" / "record.json").read_bytes(), source="record.json")
    assert isinstance(stored, PackedRecord)
    assert stored == first
    assert not list((tmp_path / "p").rglob("stage/*"))


def test_other_work_in_the_same_folder_is_refused(words, tmp_path: Path) -> None:
    recipe, dataset = words
    out = str(tmp_path / "p")
    pack(dataset, recipe=recipe, out=out, map_tasks=map_here)
    other = recipe.model_copy(update={"data_seed": 125})
    with pytest.raises(RecordError, match=r"other work .*choose an empty --out"):
        pack(dataset, recipe=other, out=out, map_tasks=map_here)


def test_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no .*nothing/record\.json; name the folder"):
        pack(
            str(tmp_path / "nothing"),
            recipe=data_sets.recipe(tmp_path),
            out=str(tmp_path / "p"),
            map_tasks=map_here,
        )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (os.unlink, "00001.parquet is missing"),
        (lambda path: os.truncate(path, 100), "has 100 bytes, expected"),
    ],
)
def test_damaged_data_set_is_named(words, tmp_path: Path, spoil, message: str) -> None:
    recipe, dataset = words
    spoil(Path(dataset) / "data" / "00001.parquet")
    with pytest.raises(ShardError, match=message):
        pack(dataset, recipe=recipe, out=str(tmp_path / "p"), map_tasks=map_here)


def test_null_text_is_named_by_row(tmp_path: Path) -> None:
    dataset = data_sets.dataset(tmp_path / "d", ["a b", None, "c"], num_files=1)
    with pytest.raises(ShardError, match=r"00000\.parquet, row 1: the text is null"):
        pack(
            dataset,
            recipe=data_sets.recipe(tmp_path),
            out=str(tmp_path / "p"),
            map_tasks=map_here,
        )


def test_data_set_without_documents_is_refused(tmp_path: Path) -> None:
    dataset = data_sets.dataset(tmp_path / "d", [], num_files=1)
    with pytest.raises(ValueError, match="no text to pack"):
        pack(
            dataset,
            recipe=data_sets.recipe(tmp_path),
            out=str(tmp_path / "p"),
            map_tasks=map_here,
        )


def test_parquet_without_text_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    data_sets.dataset(folder, ["a"], num_files=1)
    path = folder / "data" / "00000.parquet"
    pq.write_table(pa.table({"words": ["a"]}), path)
    record = parse_record((folder / "record.json").read_bytes(), source="r")
    content = path.read_bytes()
    file = record.outputs[0].model_copy(
        update={"sha256": hashlib.sha256(content).hexdigest(), "num_bytes": len(content)}
    )
    sealed = type(record).seal(
        work=record.work, parents=record.parents, outputs=[file], made_by=record.made_by
    )
    (folder / "record.json").write_bytes(sealed.to_json())
    with pytest.raises(ShardError, match=r"no column 'text', only \['words'\]"):
        pack(
            str(folder),
            recipe=data_sets.recipe(tmp_path),
            out=str(tmp_path / "p"),
            map_tasks=map_here,
        )


def open_lm_folder(folder: Path, sequences: np.ndarray) -> None:
    """Shards as open_lm's own tools leave them: tars next to the manifest."""
    folder.mkdir()
    lines = []
    for index, part in enumerate(np.array_split(sequences, 3)):
        name = f"shard_{index:08d}"
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for number, sequence in enumerate(part):
                data = gzip.compress(json.dumps(sequence.tolist()).encode())
                member = tarfile.TarInfo(f"{index:08d}_{number:08d}_c0ffee.json.gz")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        lines.append(json.dumps({"shard": name, "num_sequences": len(part)}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))  # no final newline, as theirs


def test_shards_of_open_lm_train_here(words, tmp_path: Path) -> None:
    recipe, dataset = words
    recipe = recipe.model_copy(update={"tokens": 10 * 8 * 32})
    pack(dataset, recipe=recipe, out=str(tmp_path / "ours"), map_tasks=map_here)
    open_lm_folder(tmp_path / "theirs", ids_of(tmp_path / "ours"))
    record = register(str(tmp_path / "theirs"), recipe=recipe)
    assert record.work.mode == "reference", "so it cannot be submitted"
    assert record.parents == {}
    for name in ("ours", "theirs"):
        train(str(tmp_path / name), recipe=recipe, seed=0, out=str(tmp_path / f"{name}-model"))
    weights = [
        (tmp_path / f"{name}-model" / "checkpoint.safetensors").read_bytes()
        for name in ("ours", "theirs")
    ]
    assert weights[0] == weights[1], "the same sequences in the same order"


def test_registering_names_a_missing_tar(words, tmp_path: Path) -> None:
    recipe, _ = words
    open_lm_folder(tmp_path / "theirs", np.zeros((30, 33), np.uint16))
    (tmp_path / "theirs" / "shard_00000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard_00000001\.tar is missing"):
        register(str(tmp_path / "theirs"), recipe=recipe)
