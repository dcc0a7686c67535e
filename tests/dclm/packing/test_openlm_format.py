"""open_lm's layout and shard plan."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dclm.packing.openlm_format import (
    ManifestRow,
    read_manifest,
    read_tar,
    shards_per_checkpoint,
    write_manifest,
    write_tar,
)
from pipelines.storage.open import open_store


@pytest.mark.parity
def test_shards_of_every_checkpoint_equal_open_lm(fixtures: Path) -> None:
    folders = sorted(
        path.parent for path in fixtures.glob("dclm-eval/openlm/manifests/*/expected.json")
    )
    if not folders:
        pytest.skip("no manifests in the fixtures")
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        path = folder / "manifest.jsonl"
        plan = shards_per_checkpoint(
            read_manifest(path.read_bytes(), source=str(path)),
            sequences_per_checkpoint=expected["samples_per_checkpoint"],
            num_steps=expected["total_steps"],
            global_batch_size=expected["global_bs"],
            num_devices=expected["world_size"],
            num_workers=expected["workers"],
            seed=expected["seed"],
            multiple_passes=expected["multiple_data_passes"],
        )
        ours, error, steps = [], None, 0
        try:
            for part in plan:
                steps = min(expected["total_steps"], steps + part.num_steps)
                ours.append(
                    {
                        "shards": list(part.shards),
                        "num_samples": part.num_sequences,
                        "steps_available": part.num_steps,
                        "next_shard": part.next_shard,
                        "cum_steps": steps,
                    }
                )
        except (IndexError, ValueError) as raised:
            error = type(raised).__name__
        assert ours == expected["checkpoints"], folder.name
        assert error == (expected["error"].split(":")[0] if expected["error"] else None)


def test_tar_comes_back_and_has_no_time_in_it(tmp_path: Path) -> None:
    sequences = np.arange(12, dtype=np.uint16).reshape(3, 4)
    store = open_store(tmp_path)
    for name in ("a.tar", "b.tar"):
        with store.create(name) as writer:
            write_tar(writer, sequences, stem="00000007")
    assert store.read_bytes("a.tar") == store.read_bytes("b.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
        first = json.loads(gzip.decompress(archive.extractfile(names[0]).read()))
    assert names == [f"00000007_{index:08d}.json.gz" for index in range(3)]
    assert first == [0, 1, 2, 3]
    with store.open("a.tar") as file:
        assert read_tar(file, source="a.tar", length=4).tolist() == sequences.tolist()


def tar_of(*values: object) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for index, value in enumerate(values):
            data = gzip.compress(json.dumps(value).encode())
            member = tarfile.TarInfo(f"{index}.json.gz")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    file.seek(0)
    return file


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3], "expected 4 whole numbers, found 3"),
        ([1, 2, 3, "x"], "not a list of ids"),
        ([1, 2, 3, 0.5], "expected 4 whole numbers"),
        ([1, 2, 3, -1], "ids must be 0 or more, found -1"),
    ],
)
def test_sequences_that_open_lm_would_bend_are_refused(value: list, message: str) -> None:
    with pytest.raises(ValueError, match=f"s.tar, member 1.json.gz.*{message}"):
        read_tar(tar_of([0, 1, 2, 3], value), source="s.tar", length=4)


def test_truncated_tar_is_named(tmp_path: Path) -> None:
    cut = io.BytesIO(tar_of([0, 1], [2, 3]).getvalue()[:1546])
    with pytest.raises(ValueError, match=r"s\.tar is damaged after 1 sequences"):
        read_tar(cut, source="s.tar", length=2)


def test_manifest_comes_back_and_old_names_are_read() -> None:
    rows = [ManifestRow(shard="a", num_sequences=3), ManifestRow(shard="b", num_sequences=0)]
    assert read_manifest(write_manifest(rows), source="m") == rows
    old = b'{"shard": "a", "num_chunks": 3}'
    assert read_manifest(old, source="m") == rows[:1]


def test_bad_manifest_line_is_named() -> None:
    with pytest.raises(ValueError, match=r"m.jsonl, line 2: .*not a row of a manifest"):
        read_manifest(b'{"shard": "a", "num_sequences": 3}\n{"shard": 1}\n', source="m.jsonl")
