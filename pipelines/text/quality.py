"""Quality by a classifier: train a fastText model on good prose against the pool, and apply it.

The method is DCLM's (Li et al. 2024, section 4.4): a linear model over word n-grams separates a
reference of good text from random documents of the pool; its probability is the score.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier
from pipelines.records import Frozen
from pipelines.text import fields

Engine = Literal["library", "compiled"]
ENGINE = "the fastText library, or the platform's own inference: faster, within 1e-5 of it"

GOOD = "__label__hq"
OTHER = "__label__cc"


class QualityScore(Modifier, name="quality_score"):
    """Add the probability that a document is good prose, by a fastText classifier.

    Labels other than the negative one count as good.
    """

    model: str = Field(description="asset: a fastText classifier")
    column: str = Field("quality", description="column to write")
    negative: str = Field(OTHER, description="the label of documents that are not good")
    whitespace: Literal["squeeze", "lines"] = Field(
        "squeeze", description="squeeze white space to single spaces, or (as DCLM) only join lines"
    )
    overwrite: bool = Field(True, description="replace a field of this name; else it is an error")
    engine: Engine = Field("library", description=ENGINE)
    reference: ClassVar[str | None] = "classify_fasttext_hq_prob_enricher"
    _model: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model,)

    def load(self, assets: AssetFolder) -> None:
        self._model = load_engine(self.engine, assets.path(self.model))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.column, overwrite=self.overwrite)
        return {
            self.column: self._compiled(batch)
            if self.engine == "compiled"
            else self._by_library(batch)
        }

    def _compiled(self, batch: Batch) -> pa.Array:
        lines = self.whitespace == "lines"
        texts = kernels.lines.stripped(batch.text) if lines else batch.text
        labels, found, _ = self._model.top(texts, separators="lines" if lines else "unicode")
        probabilities = np.minimum(found, 1.0).astype(np.float64)
        good = np.array([label != self.negative for label in self._model.labels])
        scores = np.where(good[np.maximum(labels, 0)], probabilities, 1.0 - probabilities)
        return pa.array(scores, mask=labels < 0)

    def _by_library(self, batch: Batch) -> pa.Array:
        flat = one_line if self.whitespace == "squeeze" else joined_lines
        scores = []
        for text in batch.text.to_pylist():
            [(probability, label)] = self._model.predict(flat(text) + "\n", 1, 0.0, "strict")
            probability = min(probability, 1.0)
            scores.append(1.0 - probability if label == self.negative else probability)
        return pa.array(scores, type=pa.float64())


def one_line(text: str) -> str:
    """The text as fastText reads it: one line, single spaces."""
    return " ".join(text.split())


def joined_lines(text: str) -> str:
    """The text as DCLM's classifier reads it: its lines (of every kind) with spaces between."""
    return " ".join(text.strip().splitlines())


def load_engine(engine: Engine, path: Path) -> Any:
    """The library's predictor, or the compiled model. ValueError for a file that is no model."""
    return load_fasttext(path) if engine == "library" else kernels.fasttext.read(path)


def load_fasttext(path: Path) -> Any:
    """The compiled predictor of a fastText model file. ValueError for a file that is none."""
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


def train_classifier(
    good: Sequence[str], other: Sequence[str], *, recipe: ClassifierRecipe, out: Path
) -> None:
    """Train with one thread (so that it can be repeated) and write the model to `out`."""
    import fasttext

    if not good or not other:
        raise ValueError(
            f"a classifier needs documents of both kinds, got {len(good)} good and "
            f"{len(other)} others"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        for number in range(max(len(good), len(other))):  # mixed: SGD sees both kinds throughout
            for label, texts in ((GOOD, good), (OTHER, other)):
                if number < len(texts):
                    file.write(f"{label} {one_line(texts[number])}\n")
        file.flush()
        model = fasttext.train_supervised(
            file.name,
            dim=recipe.dim,
            wordNgrams=recipe.word_ngrams,
            epoch=recipe.epochs,
            lr=recipe.learning_rate,
            minCount=recipe.min_count,
            bucket=recipe.buckets,
            seed=recipe.seed,
            thread=1,
            verbose=0,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    model.save_model(str(out))
