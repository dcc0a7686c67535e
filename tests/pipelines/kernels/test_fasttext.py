"""fastText inference against the library, on models trained here and the language model."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from pipelines.assets.catalogue import AssetError, Assets
from pipelines.kernels import fasttext as kernel
from pipelines.schema import STRING
from pipelines.text.quality import joined_lines, one_line

library = pytest.importorskip("fasttext")

WORDS = [
    *("the", "a", "river", "\u00e9t\u00e9", "\u65e5\u672c\u8a9e", "runs", "to", "sea", "Buy"),
    *("cheap", "pills", "</s>", "__label__x", "\u0645\u0631\u062d\u0628\u0627", "x"),
]
GAPS = [" ", " ", "\n", "\t", "\u00a0", "\u2028", "\x00", "\x1c", "\r\n", "  "]

FLATTEN: dict[str, Callable[[str], str]] = {
    "spaces": lambda text: text.replace("\n", " "),
    "delete_newlines": lambda text: text.replace("\n", ""),
    "unicode": one_line,
}


def hostile_texts(number: int) -> list[str]:
    chance = random.Random(2)
    made = []
    for _ in range(number):
        count = chance.randint(0, 30)
        made.append("".join(w + chance.choice(GAPS) for w in chance.choices(WORDS, k=count)))
    return [*made, "", "\n", " ", "</s>", "a</s> b"]


@pytest.fixture(scope="module", params=["softmax", "hs", "ova", "bigrams", "subwords", "quantised"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    chance = random.Random(4)
    lines = []
    for number in range(600):
        label = f"__label__{number % 5}"
        words = chance.choices([*WORDS[number % 5 :], f"w{number % 37}"], k=12)
        lines.append(" ".join([label, *(w for w in words if w not in ("</s>", "__label__x"))]))
    (folder / "train.txt").write_text("\n".join(lines), encoding="utf-8")
    options: dict[str, Any] = {"loss": "softmax", "minn": 0, "maxn": 0, "wordNgrams": 1}
    options |= {
        "softmax": {},
        "hs": {"loss": "hs"},
        "ova": {"loss": "ova"},
        "bigrams": {"wordNgrams": 3},
        "subwords": {"minn": 1, "maxn": 4, "loss": "hs"},
        "quantised": {"minn": 2, "maxn": 4},
    }[request.param]
    trained = library.train_supervised(
        str(folder / "train.txt"), dim=10, bucket=5000, epoch=5, thread=1, verbose=0, **options
    )
    if request.param == "quantised":
        trained.quantize(input=str(folder / "train.txt"), qnorm=True, cutoff=600, retrain=False)
    path = folder / "model.bin"
    trained.save_model(str(path))
    return path


def check(path: Path, texts: list[str], separators: str, flat: Callable[[str], str]) -> None:
    ours, theirs = kernel.read(path), library.load_model(str(path)).f
    labels, probabilities, alnum = ours.top(pa.array(texts, type=STRING), separators=separators)
    for row, text in enumerate(texts):
        expected = theirs.predict(flat(text) + "\n", 1, 0.0, "strict")
        label = ours.labels[labels[row]] if labels[row] >= 0 else None
        assert label == (expected[0][1] if expected else None), repr(text)
        assert probabilities[row] == pytest.approx(expected[0][0] if expected else 0.0, abs=1e-4)
        assert alnum[row] == any(map(str.isalnum, text)), repr(text)


@pytest.mark.parametrize("separators", FLATTEN)
def test_models_of_every_kind_answer_as_the_library(model: Path, separators: str) -> None:
    check(model, hostile_texts(400), separators, FLATTEN[separators])


def test_lines_are_joined_as_dclm_does(model: Path) -> None:
    from pipelines.kernels.lines import stripped

    texts = hostile_texts(300)
    ours, theirs = kernel.read(model), library.load_model(str(model)).f
    array = stripped(pa.array(texts, type=STRING))
    labels, probabilities, _ = ours.top(array, separators="lines")
    for row, text in enumerate(texts):
        expected = theirs.predict(joined_lines(text) + "\n", 1, 0.0, "strict")
        label = ours.labels[labels[row]] if labels[row] >= 0 else None
        assert label == (expected[0][1] if expected else None), repr(text)
        assert probabilities[row] == pytest.approx(expected[0][0] if expected else 0.0, abs=1e-4)


def test_the_language_model_answers_as_the_library_on_real_pages(data: Path) -> None:
    try:
        path = Assets().path("lid.176.ftz")
    except AssetError as error:
        pytest.skip(str(error))
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        texts = [orjson.loads(line)["text"] for line in file][::4]
    check(path, texts, "spaces", FLATTEN["spaces"])


@pytest.mark.parametrize("newlines", ["space", "delete"])
def test_language_scores_are_equal_by_both_engines(model: Path, newlines: str) -> None:
    from pipelines.batch import Batch
    from pipelines.text.language import LanguageScores

    texts = [*hostile_texts(200), "!?", "...\n", "\u3002", "-\u00a0-"]
    batch = Batch(pa.table({"text": pa.array(texts, type=STRING)}))
    assets = Assets(folders=(model.parent,))
    answers = []
    for engine in ("library", "compiled"):
        given = {"weights": model.name, "newlines": newlines, "engine": engine}
        operator = LanguageScores.model_validate(given)
        operator.load(assets)
        answers.append([orjson.loads(e) for e in operator.modify(batch)["extra"].to_pylist()])
    for text, by_library, compiled in zip(texts, *answers, strict=True):
        assert compiled.keys() == by_library.keys() == {"language_scores"}
        scores = by_library["language_scores"]
        assert compiled["language_scores"] == pytest.approx(scores, abs=1e-4), repr(text)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ValueError, match="is not a fastText model"):
        kernel.read(path)
    path.write_bytes((793712314).to_bytes(4, "little") + b"\x0c\0\0\0")
    with pytest.raises(ValueError, match="cut short"):
        kernel.read(path)
