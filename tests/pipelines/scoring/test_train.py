"""A classifier from any documents: what it learns, what its record says, who may train it."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from pipelines.errors import DataError, UsageError
from pipelines.execution.executors import MapTasks, ProcessMap, map_here
from pipelines.pipeline import Pipeline
from pipelines.records import AssetRecord, parse_record
from pipelines.scoring.asset_files import record_path
from pipelines.scoring.samples import Documents, open_sources
from pipelines.scoring.train import (
    TrainingOptions,
    evaluation_of,
    labelled_auc,
    read_labels,
    train,
)
from pipelines.text.quality import ClassifierRecipe

SMALL = ClassifierRecipe(dim=8, buckets=1000, epochs=5, learning_rate=0.5, min_count=1)
OPTIONS = TrainingOptions(recipe=SMALL, held_out=0.2)


def corpus(folder: Path, words: list[str], number: int, *, seed: int, shards: int = 3) -> str:
    """Documents of words drawn from a list."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        rows = [
            orjson.dumps({"text": " ".join(rng.choice(words, 12))}) for _ in range(number // shards)
        ]
        (folder / f"{shard}.jsonl").write_bytes(b"\n".join(rows))
    return str(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("sources")
    good = corpus(folder / "good", ["because", "therefore", "theorem", "the"], 300, seed=1)
    other = corpus(folder / "other", ["buy", "now", "click", "the"], 600, seed=2)
    return good, other


def trained(sources: tuple[str, str], out: Path, map_tasks: MapTasks = map_here) -> AssetRecord:
    good, other = sources
    return train(
        Documents(open_sources([good], what="good"), take=200),
        Documents(open_sources([other], what="other"), take=500),
        out=out,
        options=OPTIONS,
        map_tasks=map_tasks,
    )


def test_learns_and_says_how_well(sources: tuple[str, str], tmp_path: Path) -> None:
    record = trained(sources, tmp_path / "mine.bin")
    evaluation = evaluation_of(record)
    assert evaluation is not None
    assert evaluation.auc > 0.99
    tested = evaluation.positives + evaluation.negatives
    assert sum(map(sum, evaluation.histograms.values())) == tested
    assert record.counts["positives"] == record.counts["negatives"] == 200 - evaluation.positives
    assert not (tmp_path / "mine.bin.work").exists()
    assert parse_record(record_path(tmp_path / "mine.bin").read_bytes(), source="") == record
    assert [ref.name for ref in record.work.inputs] == ["positives/good", "negatives/other"]
    assert {ref.sha256 for ref in record.work.inputs} == set(record.parents.values())


def test_several_processes_train_the_same_classifier(
    sources: tuple[str, str], tmp_path: Path
) -> None:
    here = trained(sources, tmp_path / "one" / "m.bin")
    there = trained(sources, tmp_path / "two" / "m.bin", ProcessMap(2))
    assert here.id == there.id


@pytest.mark.ray
@pytest.mark.slow
def test_ray_trains_the_same_classifier(
    sources: tuple[str, str], tmp_path: Path, ray_cluster: MapTasks
) -> None:
    here = trained(sources, tmp_path / "one" / "m.bin")
    there = trained(sources, tmp_path / "two" / "m.bin", ray_cluster)
    assert here.id == there.id


def test_the_same_work_is_not_done_twice(sources: tuple[str, str], tmp_path: Path) -> None:
    first = trained(sources, tmp_path / "m.bin")
    before = (tmp_path / "m.bin").stat().st_mtime_ns
    assert trained(sources, tmp_path / "m.bin") == first
    assert (tmp_path / "m.bin").stat().st_mtime_ns == before


def test_a_text_of_both_labels_is_no_negative(tmp_path: Path) -> None:
    for name, lines in (("good", ["alpha beta", "gamma"]), ("other", ["alpha beta", "delta"])):
        (tmp_path / f"{name}.jsonl").write_bytes(
            b"".join(orjson.dumps({"text": line}) + b"\n" for line in lines)
        )
    record = train(
        Documents(open_sources([f"{tmp_path}/good.jsonl"], what="good")),
        Documents(open_sources([f"{tmp_path}/other.jsonl"], what="other")),
        out=tmp_path / "m.bin",
        options=TrainingOptions(recipe=SMALL, held_out=0.0, balance="as_is"),
        map_tasks=map_here,
    )
    assert record.counts == {"positives": 2, "negatives": 1, "in_both": 1}
    assert evaluation_of(record) is None  # nothing was held out


def test_nothing_that_qualifies_is_an_error(sources: tuple[str, str], tmp_path: Path) -> None:
    good, other = sources
    none = Pipeline.from_steps([{"word_count": {"min_words": 1000}}])
    with pytest.raises(DataError, match="no negative document is left"):
        train(
            Documents(open_sources([good], what="good")),
            Documents(open_sources([other], what="other"), qualify=none),
            out=tmp_path / "m.bin",
            options=OPTIONS,
            map_tasks=map_here,
        )


def test_a_bucket_is_no_place_for_a_model(sources: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="local file"):
        trained(sources, Path("s3://bucket/m.bin"))


def test_a_folder_is_no_model(sources: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder; give a file"):
        trained(sources, tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b"}', "line 2: label is None, expected 0"),
        ('{"text": "a", "label": "good"}', "line 1: label is 'good', expected 0"),
        ('{"label": 1}', "line 1: expected"),
        ('\n{"text"', "line 2 is not JSON"),
        ('{"text": "a", "label": 1}\n', "1 documents labelled good and 0 labelled bad"),
        ("", "0 documents labelled good and 0 labelled bad"),
    ],
)
def test_labels_that_are_none_are_named(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").write_text(lines)
    with pytest.raises(DataError, match=re.escape(message)):
        read_labels(tmp_path / "labels.jsonl")


def test_real_answers_against_real_pages(data: Path, tmp_path: Path) -> None:
    """Instructions' answers against web pages: people's labels of other pages agree with it."""
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        pages = [line for line in file if orjson.loads(line)["lang"] == "en"]
    (tmp_path / "pages.jsonl").write_bytes(b"".join(pages))
    answers = next((data / "quality").glob("dolly*.jsonl"))
    answered = Pipeline.from_steps([]).with_text_from("response")
    train(
        Documents(open_sources([str(answers)], what="good"), qualify=answered),
        Documents(open_sources([str(tmp_path / "pages.jsonl")], what="other")),
        out=tmp_path / "m.bin",
        options=TrainingOptions(recipe=SMALL, held_out=0.1),
        map_tasks=map_here,
    )
    record = parse_record((tmp_path / "m.bin.record.json").read_bytes(), source="")
    evaluation = evaluation_of(record)
    assert evaluation is not None
    assert evaluation.auc > 0.9
    [labels] = (data / "quality").glob("majority*.jsonl")
    assert labelled_auc(read_labels(labels), model=tmp_path / "m.bin").num_documents > 100


LONG = """
import sys
from pathlib import Path
from pipelines.text.quality import ClassifierRecipe, train_classifier
words = [f"word{n % 997} word{n % 89} word{n % 13}" for n in range(4000)]
recipe = ClassifierRecipe(
    dim=100, word_ngrams=2, epochs=100_000, learning_rate=0.001, min_count=1, buckets=1000
)
print("ready", flush=True)
train_classifier(words, words[::-1], recipe=recipe, out=Path(sys.argv[1]) / "model.bin")
"""


def test_ctrl_c_ends_a_training_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, str(tmp_path)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(2)
        assert process.poll() is None, "it was interrupted before its end"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "model.bin").exists()
    assert list(temporary.iterdir()) == []
