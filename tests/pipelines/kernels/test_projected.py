"""Projected classifiers against the fastText library, on models trained here."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.batch import Batch
from pipelines.kernels import fasttext as kernel
from pipelines.kernels import projected
from pipelines.schema import STRING
from pipelines.text import quality
from pipelines.text.quality import NEAR, QualityScore, QualityScores, joined_lines, one_line

library = pytest.importorskip("fasttext")

WORDS = [
    *("the", "a", "river", "\u00e9t\u00e9", "\u65e5\u672c\u8a9e", "runs", "to", "sea", "Buy"),
    *("cheap", "pills", "</s>", "__label__hq", "__label__x", "internationalization", "x</s>"),
    *("internationalisation", "abcdefgh", "abcdefghi", "zabcdefghi"),
]
GAPS = [" ", " ", " ", "\n", "\t", "\u00a0", "\u2028", "\x00", "\x1c", "\x1f", "\r\n", "  "]
GAPS += ["\u3000", "\u1680", "\x85", "\u202f"]
FLATTEN: dict[str, Callable[[str], str]] = {
    "spaces": lambda text: text.replace("\n", " "),
    "delete_newlines": lambda text: text.replace("\n", ""),
    "unicode": one_line,
}


def texts_of(number: int) -> list[str]:
    chance = random.Random(7)
    made = []
    for _ in range(number):
        words = chance.choices([*WORDS, *(f"w{n}" for n in range(40))], k=chance.randint(0, 30))
        made.append("".join(word + chance.choice(GAPS) for word in words))
    return [*made, "", "\n", " ", "</s>", "a</s> b", "a </s> the river", "\u3000\u3000"]


def trained(path: Path, *, labels: int = 2, **options: Any) -> Path:
    chance = random.Random(options.pop("seed", 4))
    lines = []
    for number in range(600):
        label = ("hq", "cc", "other")[number % labels]
        words = chance.choices([*WORDS[number % labels :], f"w{number % 37}"], k=12)
        lines.append(" ".join([f"__label__{label}", *(w for w in words if "_" not in w)]))
    text = path.with_suffix(".txt")
    text.write_text("\n".join(line.replace(" </s>", "") for line in lines), encoding="utf-8")
    options = {"wordNgrams": 2, "bucket": 5000, "dim": 10, "epoch": 3} | options
    library.train_supervised(str(text), thread=1, verbose=0, **options).save_model(str(path))
    return path


@pytest.fixture(scope="module", params=["bigrams", "words", "trigrams", "three", "ova", "pruned"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / f"{request.param}.bin"
    options: dict[str, Any] = {
        "bigrams": {},
        "words": {"wordNgrams": 1},
        "trigrams": {"wordNgrams": 3},
        "three": {"labels": 3},
        "ova": {"loss": "ova", "labels": 3},
        "pruned": {"wordNgrams": 2},
    }[request.param]
    trained(path, **options)
    if request.param == "pruned":
        smaller = library.load_model(str(path))
        smaller.quantize(input=str(path.with_suffix(".txt")), cutoff=600, retrain=False)
        smaller.save_model(str(path))
    return path


@pytest.mark.parametrize("separators", FLATTEN)
def test_answers_are_the_librarys(model: Path, separators: str) -> None:
    texts = texts_of(400)
    theirs = library.load_model(str(model)).f
    ours = projected.project([kernel.read(model)])
    [(labels, probabilities)] = ours.top(pa.array(texts, type=STRING), separators=separators)
    names = kernel.read(model).labels
    for row, text in enumerate(texts):
        answer = theirs.predict(FLATTEN[separators](text) + "\n", -1, 0.0, "strict")
        if not answer:
            assert labels[row] == -1, repr(text)
            continue
        probability = min(answer[0][0], 1.0)
        # One-vs-all cuts its sigmoid into steps of 1/32: a sum in another order may take the next.
        tolerance = 8e-3 if model.name == "ova.bin" else 2e-5
        assert probabilities[row] == pytest.approx(probability, abs=tolerance), repr(text)
        if len(answer) == 1 or probability - answer[1][0] > 2 * tolerance:
            assert names[labels[row]] == answer[0][1], repr(text)


def test_lines_are_joined_as_dclm_does(tmp_path: Path) -> None:
    path = trained(tmp_path / "model.bin")
    texts = texts_of(300)
    batch = Batch(pa.table({"text": pa.array(texts, type=STRING)}))
    operator = QualityScore(model="m", whitespace="lines", engine="compiled")
    operator._model = quality.Classifiers((path,), negative="__label__cc", exact_near=())
    actual = operator.modify(batch)["quality"].to_pylist()
    theirs = library.load_model(str(path)).f
    for text, score in zip(texts, actual, strict=True):
        expected = quality.library_score(theirs, joined_lines(text), "__label__cc")
        assert score == pytest.approx(expected, abs=2e-5), repr(text)


def test_several_models_in_one_pass_answer_as_each_alone(tmp_path: Path) -> None:
    paths = [
        trained(tmp_path / "a.bin"),
        trained(tmp_path / "b.bin", seed=9, labels=3),
        trained(tmp_path / "c.bin", seed=11, minCount=30),  # knows fewer words
        trained(tmp_path / "d.bin", seed=3, bucket=700),  # other buckets: a table of its own
        trained(tmp_path / "e.bin", seed=5, minn=2, maxn=3),  # character n-grams: not projected
    ]
    texts = pa.array(texts_of(200), type=STRING)
    together = quality.Classifiers(paths, negative="__label__cc", exact_near=())
    assert sorted(len(numbers) for numbers, _ in together._groups) == [1, 3]
    for path, scores in zip(paths, together.scores(texts, "squeeze"), strict=True):
        alone = quality.Classifiers((path,), negative="__label__cc", exact_near=())
        [expected] = alone.scores(texts, "squeeze")
        assert scores.to_pylist() == pytest.approx(expected.to_pylist(), abs=1e-12)


def test_scores_near_a_threshold_are_the_librarys_to_the_bit(tmp_path: Path) -> None:
    path = trained(tmp_path / "model.bin")
    texts = texts_of(200)
    theirs = library.load_model(str(path)).f
    exact = [quality.library_score(theirs, one_line(text), "__label__cc") for text in texts]
    threshold = sorted(exact)[100]
    [scores] = quality.Classifiers((path,), negative="__label__cc", exact_near=(threshold,)).scores(
        pa.array(texts, type=STRING), "squeeze"
    )
    near = [abs(score - threshold) < NEAR / 2 for score in exact]
    assert any(near)
    kept = np.array(scores.to_pylist()) >= threshold
    assert kept.tolist() == [score >= threshold for score in exact]
    for score, other, is_near in zip(scores.to_pylist(), exact, near, strict=True):
        assert not is_near or score == other


def test_words_whose_hashes_collide_are_told_apart(tmp_path: Path) -> None:
    """Known pairs of equal 32-bit FNV-1a; the first is in the vocabulary, the other not."""
    pair = ("costarring", "liquid")
    assert projected._hash_of(pair[0].encode()) == projected._hash_of(pair[1].encode())
    text = tmp_path / "t.txt"
    lines = [f"__label__hq {pair[0]} river sea\n", "__label__cc cheap pills now\n"] * 20
    text.write_text("".join(lines))
    path = tmp_path / "m.bin"
    library.train_supervised(
        str(text), thread=1, verbose=0, dim=4, epoch=20, lr=1.0, wordNgrams=1
    ).save_model(str(path))
    ours, theirs = projected.project([kernel.read(path)]), library.load_model(str(path)).f
    [(_, probabilities)] = ours.top(pa.array([*pair], type=STRING))
    expected = [theirs.predict(word + "\n", 1, 0.0, "strict")[0][0] for word in pair]
    assert abs(expected[0] - expected[1]) > 0.01
    assert probabilities.tolist() == pytest.approx([min(p, 1.0) for p in expected], abs=2e-5)


def test_models_that_cannot_be_projected_are_refused(tmp_path: Path) -> None:
    subwords = kernel.read(trained(tmp_path / "a.bin", minn=2, maxn=3))
    assert not projected.can_project(subwords)
    with pytest.raises(ValueError, match="cannot be projected"):
        projected.project([subwords])
    first, second = (
        kernel.read(trained(tmp_path / f"{bucket}.bin", bucket=bucket)) for bucket in (500, 600)
    )
    with pytest.raises(ValueError, match="other word n-grams or buckets"):
        projected.project([first, second])


def test_a_record_of_the_library_engine_has_no_thresholds() -> None:
    assert "exact_near" not in QualityScore(model="m").model_dump(mode="json")
    assert "exact_near" in QualityScore(model="m", engine="compiled").model_dump(mode="json")
    assert QualityScores(models={"a": "b"}).writes() == {"a": pa.float64()}
