"""The language of a document: fastText identification (Joulin et al. 2016), and a rule on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Case, Filter, Modifier, because
from pipelines.schema import EXTRA, STRING
from pipelines.text import fields, language_profiles
from pipelines.text.quality import ENGINE, Engine, load_engine, load_fasttext
from pipelines.text.units import SentenceKind, sentence_splitter, split_sentences


class LanguageId(Modifier, name="language_id"):
    """Add the most likely language and its probability, by a fastText model.

    A text without any letter or digit has no language (null).
    """

    model: str = Field("lid.176.ftz", description="asset: a fastText model with __label__xx labels")
    max_characters: int | None = Field(
        4000, ge=1, description="only this many leading code points are looked at; null: all"
    )
    newlines: Literal["space", "delete"] = Field(
        "space", description="what newlines become; DCLM deletes them, which glues words together"
    )
    engine: Engine = Field("library", description=ENGINE)
    reference: ClassVar[str | None] = "detect_lang_whole_page_enricher"
    _model: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {"language": STRING, "language_probability": pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model,)

    def load(self, assets: AssetFolder) -> None:
        self._model = load_engine(self.engine, assets.path(self.model))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        return self._compiled(batch) if self.engine == "compiled" else self._by_library(batch)

    def _compiled(self, batch: Batch) -> Mapping[str, pa.Array]:
        texts = batch.text
        if self.max_characters is not None:
            texts = pc.utf8_slice_codeunits(texts, 0, self.max_characters)
        separators = "spaces" if self.newlines == "space" else "delete_newlines"
        labels, probabilities, alnum = self._model.top(texts, separators=separators)
        known = pa.array(alnum & (labels >= 0))
        names = pa.array([n.removeprefix("__label__") for n in self._model.labels], type=STRING)
        languages = names.take(pa.array(np.maximum(labels, 0)))
        values = pa.array(np.minimum(probabilities, 1.0).astype(np.float64))
        return {
            "language": pc.if_else(known, languages, pa.scalar(None, STRING)),
            "language_probability": pc.if_else(known, values, pa.scalar(None, pa.float64())),
        }

    def _by_library(self, batch: Batch) -> Mapping[str, pa.Array]:
        languages: list[str | None] = []
        probabilities: list[float | None] = []
        between = " " if self.newlines == "space" else ""
        for text in batch.text.to_pylist():
            head = text[: self.max_characters].replace("\n", between)
            if not any(map(str.isalnum, head)):
                languages.append(None)
                probabilities.append(None)
                continue
            [(probability, label)] = self._model.predict(head + "\n", 1, 0.0, "strict")
            languages.append(label.removeprefix("__label__"))
            probabilities.append(min(probability, 1.0))
        return {
            "language": pa.array(languages, type=STRING),
            "language_probability": pa.array(probabilities, type=pa.float64()),
        }


class Language(Filter, name="language"):
    """Keep documents in these languages. Reads what `language_id` added."""

    keep: tuple[str, ...] = Field(("en",), min_length=1, description="language codes to keep")
    min_probability: float = Field(0.65, ge=0, le=1, description="kept at or above it")
    reasons: ClassVar[tuple[str, ...]] = ("no_language", "other_language", "uncertain_language")
    reference: ClassVar[str | None] = "language_filter"

    def reads(self) -> tuple[str, ...]:
        return ("language", "language_probability")

    def cases(self, batch: Batch) -> Sequence[Case]:
        language = batch.strings("language")
        missing = language.is_null().to_numpy(zero_copy_only=False)
        other = np.array([value not in self.keep for value in language.to_pylist()], dtype=bool)
        column = batch.column("language_probability").fill_null(0.0)
        probability = column.to_numpy(zero_copy_only=False)
        unsure = probability < self.min_probability
        return [
            Case(missing, "no_language"),
            Case(other, "other_language"),
            Case(unsure, "uncertain_language", probability, self.min_probability),
        ]

    def passage(self, batch: Batch, reason: str) -> str | None:
        if reason != "other_language":
            return None
        return f"language: {batch.strings('language')[0].as_py()}"


PUNCTUATION = frozenset(" !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
"""A text of nothing else has no language. Newlines and tabs are not among them, as in DCLM."""


class _Languages(Modifier):
    """What the two identifiers of languages share: a model, and the field that they write."""

    model: Literal["fasttext", "langdetect"] = Field("fasttext", description="what identifies")
    field: str = Field(min_length=1, description="field to write")
    weights: str = Field("lid.176.ftz", description="asset: the fastText model")
    seed: int = Field(0, ge=0, description="langdetect draws at random: another seed, other draws")
    overwrite: bool = Field(False, description="replace a field of this name; else it is an error")
    engine: Engine = Field("library", description=ENGINE, exclude_if=lambda e: e == "library")
    _predict: Any = PrivateAttr(None)

    def drops(self) -> tuple[str, ...]:
        return (self.field,) if self.overwrite else ()  # a column would hide the new entry

    def writes(self) -> Mapping[str, pa.DataType]:
        return {EXTRA: STRING}

    def optional_reads(self) -> tuple[str, ...]:
        return (self.field,)

    def assets(self) -> tuple[str, ...]:
        return (self.weights,) if self.model == "fasttext" else ()


class LanguageScores(_Languages, name="language_scores"):
    """Add languages with probabilities as a field `{language: probability}` (in `extra`).

    fastText gives its one best label, langdetect (Shuyo 2010) all it considers. Newlines are
    deleted before fastText looks, as DCLM does, or read as spaces. A text of nothing but ASCII
    punctuation and spaces has no language: `{}`. langdetect raises on a text without letters.
    """

    field: str = Field("language_scores", min_length=1, description="field to write")
    newlines: Literal["space", "delete"] = Field("space", description="what newlines become")
    reference: ClassVar[str | None] = "detect_lang_whole_page_enricher"

    def load(self, assets: AssetFolder) -> None:
        if self.model == "langdetect":
            self._predict = langdetect_scores(self.seed)
        elif self.engine == "compiled":
            self._predict = kernels.fasttext.read(assets.path(self.weights))
        else:
            self._predict = fasttext_top(load_fasttext(assets.path(self.weights)))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.field, overwrite=self.overwrite)
        entries: list[dict[str, Any]] = []
        if self.model == "fasttext" and self.engine == "compiled":
            return {EXTRA: fields.with_entries(batch, self._compiled(batch.text))}
        for text in batch.text.to_pylist():
            if PUNCTUATION.issuperset(text):
                entries.append({self.field: {}})
                continue
            if self.model == "fasttext":
                text = text.replace("\n", "" if self.newlines == "delete" else " ")
            entries.append({self.field: self._predict(text)})
        return {EXTRA: fields.with_entries(batch, entries)}

    def _compiled(self, texts: pa.Array) -> list[dict[str, Any]]:
        separators = "spaces" if self.newlines == "space" else "delete_newlines"
        labels, probabilities, alnum = self._predict.top(texts, separators=separators)
        names = [label.removeprefix("__label__") for label in self._predict.labels]
        entries: list[dict[str, Any]] = []
        for row, (label, has_alnum) in enumerate(zip(labels.tolist(), alnum.tolist(), strict=True)):
            # Only a text without a letter or digit can be punctuation alone.
            empty = label < 0 or (not has_alnum and PUNCTUATION.issuperset(texts[row].as_py()))
            scores = {} if empty else {names[label]: float(probabilities[row])}
            entries.append({self.field: scores})
        return entries


def fasttext_top(model: Any) -> Any:
    """A function from one line of text to {best language: probability}."""

    def predict(line: str) -> dict[str, float]:
        labels = model.predict(line + "\n", 1, 0.0, "strict")
        return {label.removeprefix("__label__"): p for p, label in labels}

    return predict


def compiled_top(model: Any) -> Any:
    """The same by the compiled engine, which knows a sentence that comes again."""
    names = [label.removeprefix("__label__") for label in model.labels]

    @lru_cache(maxsize=1 << 16)
    def predict(line: str) -> dict[str, float]:
        labels, probabilities, _ = model.top(pa.array([line], STRING), separators="spaces")
        return {} if labels[0] < 0 else {names[labels[0]]: float(probabilities[0])}

    return predict


def langdetect_scores(seed: int) -> Any:
    """A function from a text to the probabilities of langdetect."""
    try:
        return language_profiles.scorer(seed)
    except ImportError as error:
        raise ValueError(
            f"model: langdetect needs a package: pip install langdetect ({error})"
        ) from None


class SentenceLanguages(_Languages, name="sentence_languages"):
    """Add the languages of a text's sentences as a field (in `extra`).

    The field is `{language: {average_probability, number_of_sentences}}`; the average is over the
    sentences in which the language was found. A newline in a sentence is read as a space, or (as
    in DCLM, which loses such documents) is an error.
    """

    sentences: SentenceKind = Field("blingfire", description="what splits sentences")
    field: str = Field("sentence_languages", min_length=1, description="field to write")
    newlines: Literal["space", "error"] = Field("space", description="a newline in a sentence")
    reference: ClassVar[str | None] = "detect_lang_paragraph_enricher"

    def load(self, assets: AssetFolder) -> None:
        sentence_splitter(self.sentences, "english")
        if self.model == "langdetect":
            self._predict = langdetect_scores(self.seed)
        elif self.engine == "compiled":
            self._predict = compiled_top(kernels.fasttext.read(assets.path(self.weights)))
        else:
            self._predict = fasttext_top(load_fasttext(assets.path(self.weights)))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.field, overwrite=self.overwrite)
        known: dict[str, dict[str, float]] = {}  # short sentences come again
        entries = [{self.field: self._languages(text, known)} for text in batch.text.to_pylist()]
        return {EXTRA: fields.with_entries(batch, entries)}

    def _scores(self, sentence: str) -> dict[str, float]:
        """The probability of each language considered; nothing for punctuation alone."""
        if PUNCTUATION.issuperset(sentence):
            return {}
        if self.model == "fasttext" and "\n" in sentence:
            if self.newlines == "error":
                raise ValueError("a sentence holds a newline; set newlines: space")
            sentence = sentence.replace("\n", " ")
        scores: dict[str, float] = self._predict(sentence)
        return scores

    def _languages(
        self, text: str, known: dict[str, dict[str, float]]
    ) -> dict[str, dict[str, float]]:
        by_language: dict[str, list[float]] = {}
        for sentence in split_sentences(text, self.sentences):
            scores = known.get(sentence)
            if scores is None:
                scores = known[sentence] = self._scores(sentence)
            for language, probability in scores.items():
                by_language.setdefault(language, []).append(probability)
        return {
            language: {
                "average_probability": sum(values) / len(values),
                "number_of_sentences": len(values),
            }
            for language, values in by_language.items()
        }


class LanguageFromScores(Filter, name="language_from_scores"):
    """Keep documents with a chosen language above a probability. Reads what `language_scores` adds.

    The probability must be greater, not equal, as in DCLM.
    """

    keep: tuple[str, ...] = Field(description="language codes to keep")
    above: float = Field(0.0, ge=0, description="kept with a probability greater than this")
    field: str = Field("language_scores", min_length=1, description="field with the probabilities")
    reasons: ClassVar[tuple[str, ...]] = ("other_language",)
    reference: ClassVar[str | None] = "language_filter"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (self.field,)

    def reject(self, batch: Batch) -> pa.Array:
        rejected = []
        for scores in fields.needed(batch, self.field, why=self.name):
            if not isinstance(scores, dict):
                raise ValueError(f"{self.field!r} is {type(scores).__name__}, expected a mapping")
            rejected.append(
                not any(scores.get(language, 0.0) > self.above for language in self.keep)
            )
        return because(np.array(rejected, dtype=bool), "other_language")
