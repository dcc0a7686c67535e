"""Quality by a classifier: train a fastText model on good prose against the pool, and apply it.

The method is DCLM's (Li et al. 2024, section 4.4): a linear model over word n-grams separates a
reference of good text from random documents of the pool; its probability is the score.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier
from pipelines.records import Frozen
from pipelines.text import fields

Engine = Literal["library", "compiled"]
Whitespace = Literal["squeeze", "lines"]
WHITESPACE = "squeeze white space to single spaces, or (as DCLM) only join lines"
ENGINE = "the fastText library, or the platform's own inference: faster, within 1e-5 of it"

NEAR = 2e-5
"""Scores this near to a threshold come from the library, so that every document lands on its side.
The largest difference seen is 2e-7: the library's own float32 sums, in another order."""

DCLM_THRESHOLD = 0.018112  # DCLM-Baseline's cut of fasttext_oh_eli5 (Li et al. 2024, appendix)
EXACT_NEAR = "compiled engine: the library decides within 2e-5 of these thresholds"

GOOD = "__label__hq"
OTHER = "__label__cc"


class QualityScore(Modifier, name="quality_score"):
    """Add the probability that a document is good prose, by a fastText classifier.

    Labels other than the negative one count as good.
    """

    model: str = Field(description="asset: a fastText classifier")
    column: str = Field("quality", description="column to write")
    negative: str = Field(OTHER, description="the label of documents that are not good")
    whitespace: Whitespace = Field("squeeze", description=WHITESPACE)
    overwrite: bool = Field(True, description="replace a field of this name; else it is an error")
    engine: Engine = Field("library", description=ENGINE)
    exact_near: tuple[float, ...] = Field((0.5, DCLM_THRESHOLD), description=EXACT_NEAR)
    reference: ClassVar[str | None] = "classify_fasttext_hq_prob_enricher"
    _model: Any = PrivateAttr(None)

    @model_serializer(mode="wrap")
    def _without_idle_fields(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The library's records have no thresholds: nothing in them depends on any."""
        fields: dict[str, Any] = dump(self)
        if self.engine == "library":
            fields.pop("exact_near", None)
        return fields

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model,)

    def load(self, assets: AssetFolder) -> None:
        path = assets.path(self.model)
        if self.engine == "library":
            self._model = load_fasttext(path)
        else:
            self._model = Classifiers((path,), negative=self.negative, exact_near=self.exact_near)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.column, overwrite=self.overwrite)
        if self.engine == "compiled":
            return {self.column: self._model.scores(batch.text, self.whitespace)[0]}
        return {self.column: self._by_library(batch)}

    def _by_library(self, batch: Batch) -> pa.Array:
        flat = FLAT[self.whitespace]
        scores = [
            library_score(self._model, flat(text), self.negative) for text in batch.text.to_pylist()
        ]
        return pa.array(scores, type=pa.float64())


class QualityScores(Modifier, name="quality_scores"):
    """Add the probabilities of several fastText classifiers, which read each text once together.

    Classifiers of equal n-grams and buckets share one table, so that four cost little more than
    one. A score is what `quality_score` with the compiled engine gives.
    """

    models: dict[str, str] = Field(
        min_length=1, description="column to write: asset, a fastText classifier"
    )
    negative: str = Field(OTHER, description="the label of documents that are not good")
    whitespace: Whitespace = Field("squeeze", description=WHITESPACE)
    overwrite: bool = Field(True, description="replace fields of these names; else it is an error")
    exact_near: tuple[float, ...] = Field((0.5, DCLM_THRESHOLD), description=EXACT_NEAR)
    _models: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {column: pa.float64() for column in self.models}

    def assets(self) -> tuple[str, ...]:
        return tuple(self.models.values())

    def load(self, assets: AssetFolder) -> None:
        paths = tuple(assets.path(model) for model in self.models.values())
        self._models = Classifiers(paths, negative=self.negative, exact_near=self.exact_near)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        for column in self.models:
            fields.absent(batch, column, overwrite=self.overwrite)
        scores = self._models.scores(batch.text, self.whitespace)
        return dict(zip(self.models, scores, strict=True))


class Classifiers:
    """Compiled classifiers; the library is loaded when a score first needs it.

    Models that can be projected and have equal n-grams are read together, in groups.
    """

    def __init__(
        self, paths: Sequence[Path], *, negative: str, exact_near: Sequence[float]
    ) -> None:
        self.paths, self.negative, self.exact_near = tuple(paths), negative, tuple(exact_near)
        self._library: dict[int, Any] = {}
        self._alone: dict[int, Any] = {}
        groups: list[tuple[list[int], list[Any]]] = []
        self._good = []
        for number, path in enumerate(self.paths):
            model = kernels.fasttext.read(path)
            self._good.append(np.array([label != negative for label in model.labels]))
            if not kernels.projected.can_project(model):
                self._alone[number] = model
                continue
            for numbers, models in groups:
                if kernels.projected.same_features(models[0], model):
                    numbers.append(number)
                    models.append(model)
                    break
            else:
                groups.append(([number], [model]))
        self._groups = [(numbers, kernels.projected.project(models)) for numbers, models in groups]

    def scores(self, texts: pa.Array, whitespace: Whitespace) -> list[pa.Array]:
        """The scores of each classifier, in the order of the paths; null for a text without any
        feature."""
        lines = whitespace == "lines"
        flat = kernels.lines.stripped(texts) if lines else texts
        separators = "lines" if lines else "unicode"
        answers: dict[int, tuple[Any, Any]] = {}
        for numbers, projected in self._groups:
            top = projected.top(flat, separators=separators)
            answers |= dict(zip(numbers, top, strict=True))
        for number, model in self._alone.items():
            labels, probabilities, _ = model.top(flat, separators=separators)
            answers[number] = labels, np.minimum(probabilities, 1.0).astype(np.float64)
        return [
            self._exact(number, texts, whitespace, *answers[number])
            for number in range(len(self.paths))
        ]

    def _exact(
        self, number: int, texts: pa.Array, whitespace: Whitespace, labels: Any, probabilities: Any
    ) -> pa.Array:
        good = self._good[number][np.maximum(labels, 0)]
        scores = np.where(good, probabilities, 1.0 - probabilities)
        near = np.zeros(len(scores), dtype=bool)
        for threshold in self.exact_near:
            near |= np.abs(scores - threshold) <= NEAR
        for row in np.flatnonzero(near & (labels >= 0)).tolist():
            if number not in self._library:
                self._library[number] = load_fasttext(self.paths[number])
            text = FLAT[whitespace](texts[row].as_py())
            scores[row] = library_score(self._library[number], text, self.negative)
        return pa.array(scores, mask=labels < 0)


def library_score(model: Any, line: str, negative: str) -> float:
    """The probability of the labels that count as good, by the library."""
    [(probability, label)] = model.predict(line + "\n", 1, 0.0, "strict")
    probability = min(probability, 1.0)
    return 1.0 - probability if label == negative else probability


def one_line(text: str) -> str:
    """The text as fastText reads it: one line, single spaces."""
    return " ".join(text.split())


def joined_lines(text: str) -> str:
    """The text as DCLM's classifier reads it: its lines (of every kind) with spaces between."""
    return " ".join(text.strip().splitlines())


FLAT: Mapping[Whitespace, Callable[[str], str]] = {"squeeze": one_line, "lines": joined_lines}


def load_engine(engine: Engine, path: Path) -> Any:
    """The library's predictor, or the compiled model. ValueError for a file that is not a model."""
    return load_fasttext(path) if engine == "library" else kernels.fasttext.read(path)


def load_fasttext(path: Path) -> Any:
    """The compiled predictor of a fastText model file. ValueError for a file that is not one."""
    import fasttext

    try:
        return fasttext.load_model(str(path)).f
    except ValueError as error:
        raise ValueError(f"{path} is not a fastText model: {error}") from None


class ClassifierRecipe(Frozen):
    """How a quality classifier is trained. Names and meaning are fastText's."""

    dim: int = Field(32, ge=1, description="size of the word vectors")
    word_ngrams: int = Field(2, ge=1, description="longest run of words that is a feature")
    epochs: int = Field(8, ge=1, description="passes over the training documents")
    learning_rate: float = Field(0.3, gt=0, description="start of the linearly falling rate")
    min_count: int = Field(2, ge=1, description="words seen less often are left out")
    buckets: int = Field(200_000, ge=1, description="hash buckets of word n-grams")
    seed: int = Field(1, ge=0)


DCLM_RECIPE = ClassifierRecipe(
    dim=100, word_ngrams=2, epochs=5, learning_rate=0.1, min_count=1, buckets=2_000_000
)
"""DCLM's classifiers: fastText's own defaults with pairs of words (Li et al. 2024, appendix)."""


def train_classifier(
    good: Sequence[str],
    other: Sequence[str],
    *,
    recipe: ClassifierRecipe,
    out: Path,
    threads: int = 1,
) -> None:
    """Train and write the model to `out`. Only one thread gives the same bytes again.

    ValueError when a kind of document is missing or the training diverges.
    """
    import fasttext

    if not good or not other:
        raise ValueError(
            f"a classifier needs documents of both kinds, got {len(good)} good and "
            f"{len(other)} others"
        )
    with _nameless_file() as (file, name):
        for number in range(max(len(good), len(other))):  # mixed: SGD sees both kinds throughout
            for label, texts in ((GOOD, good), (OTHER, other)):
                if number < len(texts):
                    file.write(f"{label} {one_line(texts[number])}\n")
        file.flush()
        try:
            with _ended_by_ctrl_c():
                model = fasttext.train_supervised(
                    name,
                    dim=recipe.dim,
                    wordNgrams=recipe.word_ngrams,
                    epoch=recipe.epochs,
                    lr=recipe.learning_rate,
                    minCount=recipe.min_count,
                    bucket=recipe.buckets,
                    seed=recipe.seed,
                    thread=threads,
                    verbose=0,
                )
        except RuntimeError as error:  # "Encountered NaN."
            raise ValueError(
                f"fastText cannot train on this: {error}; a lower learning rate may help"
            ) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    model.save_model(str(out))


@contextmanager
def _nameless_file() -> Iterator[tuple[IO[str], str]]:
    """A file for a library that opens a name, of which nothing stays when the process is killed."""
    if sys.platform != "linux":
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as named:
            yield named, named.name
        return
    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        yield file, f"/proc/self/fd/{file.fileno()}"


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process at once: a library that trains for hours runs no Python meanwhile.

    Nothing is lost by that: the model is written behind the training.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
