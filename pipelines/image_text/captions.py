"""Rules on captions: size, language, and words that name something in ImageNet-21k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.image_text.wordnet import INDEX_FILES, WordNet, read_synsets
from pipelines.operators import AssetFolder, Case, Filter, because
from pipelines.schema import STRING, TEXT


def captions(batch: Batch) -> pa.Array:
    """The captions, (rows,) strings; null becomes the empty string."""
    return pc.fill_null(batch.column(TEXT), "")


MAX_KNOWN = 1_000_000  # words in the cache of looked-up words; it is emptied beyond


class CaptionSize(Filter, name="caption_size"):
    """Keep pairs whose caption has enough words and characters. (Gadre et al. 2023, basic filter)

    Words are what Python's `str.split` gives, or fastText's tokens, for which a newline is a word.
    """

    min_words: int = Field(3, ge=0, description="fewest words of a kept caption")
    min_characters: int = Field(6, ge=0, description="fewest code points of a kept caption")
    words: Literal["whitespace", "fasttext"] = Field("whitespace", description="what a word is")
    reasons: ClassVar[tuple[str, ...]] = ("too_few_words", "too_few_characters")

    def cases(self, batch: Batch) -> Sequence[Case]:
        texts = captions(batch)
        if self.words == "whitespace":
            words = kernels.words.whitespace(texts).counts
        else:
            newlines = pc.count_substring(texts, "\n").to_numpy(zero_copy_only=False)
            words = kernels.words.fasttext(texts).counts + newlines
        characters = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
        few, short = words < self.min_words, characters < self.min_characters
        return [
            Case(few, "too_few_words", words, self.min_words),
            Case(short, "too_few_characters", characters, self.min_characters),
        ]


class CaptionLanguage(Filter, name="caption_language"):
    """Keep pairs whose caption is in one of these languages. (Gadre et al. 2023)

    The most probable label counts, even if its probability is low. `model: fasttext` reads newlines
    as spaces; `model: gcld3` needs the package gcld3 and reads the first 1,000 bytes; `model:
    column` takes the labels from a column.
    """

    keep: tuple[str, ...] = Field(("en",), min_length=1, description="languages to keep")
    model: Literal["fasttext", "gcld3", "column"] = Field(
        "fasttext", description="what identifies the language"
    )
    weights: str = Field("lid.176.ftz", description="asset: the fastText model")
    column: str = Field("language", description="with `model: column`, the column of labels")
    reasons: ClassVar[tuple[str, ...]] = ("other_language",)
    _model: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return (self.column,) if self.model == "column" else (TEXT,)

    def assets(self) -> tuple[str, ...]:
        return (self.weights,) if self.model == "fasttext" else ()

    def load(self, assets: AssetFolder) -> None:
        if self.model == "fasttext":
            self._model = kernels.fasttext.read(assets.path(self.weights))
        elif self.model == "gcld3":
            try:
                import gcld3
            except ImportError as error:
                raise ValueError(
                    "caption_language with model: gcld3 needs the package gcld3, which builds "
                    "against protobuf: pip install gcld3, or use model: fasttext"
                ) from error
            self._model = gcld3.NNetLanguageIdentifier(0, 1000)

    def reject(self, batch: Batch) -> pa.Array:
        if self.model == "column":
            is_kept = pc.is_in(batch.column(self.column), pa.array(self.keep, STRING))
            return because(~is_kept.to_numpy(zero_copy_only=False), self.reasons[0])
        texts = pc.replace_substring(captions(batch), "\n", " ")
        if self.model == "fasttext":
            labels = [label.removeprefix("__label__") for label in self._model.labels]
            is_kept = np.array([label in self.keep for label in labels])
            top = self._model.top(texts)[0]
            kept = np.where(top >= 0, is_kept[top], False)
            return because(~kept, self.reasons[0])
        top = [self._model.FindLanguage(text).language for text in texts.to_pylist()]
        return because(
            np.array([language not in self.keep for language in top], bool), self.reasons[0]
        )


class SynsetWords(Filter, name="synset_words"):
    """Keep pairs whose caption has a word that names one of these synsets. (Gadre et al. 2023)

    Captions are split at white space; punctuation stays part of a word. Each word is looked up in
    WordNet 3.0 in lower case with morphology. Its first synset over nouns, verbs, adjectives and
    adverbs counts; only the offset is compared, not the part of speech, as in the reference.
    """

    synsets: str = Field(
        "imagenet21k_goog_synsets.txt", description="asset: wnids (n01440764), one per line"
    )
    reasons: ClassVar[tuple[str, ...]] = ("no_synset_word",)
    _wordnet: Any = PrivateAttr(None)
    _offsets: Any = PrivateAttr(None)
    _known: dict[bytes, bool] = PrivateAttr(default_factory=dict)

    def assets(self) -> tuple[str, ...]:
        return (self.synsets, *INDEX_FILES)

    def load(self, assets: AssetFolder) -> None:
        self._offsets = read_synsets(assets.path(self.synsets))
        self._wordnet = WordNet({name: assets.path(name) for name in INDEX_FILES})

    def reject(self, batch: Batch) -> pa.Array:
        texts = captions(batch)
        words = kernels.words.whitespace(texts)
        hits = self._hits(words)
        hits_before = np.concatenate([[0], np.cumsum(hits)])
        num_hits = hits_before[words.end] - hits_before[words.begin]
        return because(num_hits == 0, self.reasons[0])

    def _hits(self, words: Any) -> npt.NDArray[np.bool_]:
        """Whether each word names one of the synsets; each different word is looked up once."""
        different, first, inverse = np.unique(words.hash, return_index=True, return_inverse=True)
        known, wordnet, synsets = self._known, self._wordnet, self._offsets
        if len(known) > MAX_KNOWN:
            known.clear()
        data = words.data.tobytes()
        names = np.zeros(len(different), dtype=bool)
        starts, stops = words.start[first].tolist(), words.stop[first].tolist()
        for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            word = data[start:stop]
            hit = known.get(word)
            if hit is None:
                hit = wordnet.first_synset(word.decode("utf-8")) in synsets
                known[word] = hit
            names[index] = hit
        return names[inverse]
