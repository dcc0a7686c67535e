"""The language of a document: fastText identification (Joulin et al. 2016), and a rule on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Filter, Modifier, choose
from pipelines.schema import STRING
from pipelines.text.quality import load_fasttext


class LanguageId(Modifier, name="language_id"):
    """Add the most likely language and its probability, by a fastText model.

    Newlines are read as spaces. A text without any letter or digit has no language (null).
    """

    model: str = Field("lid.176.ftz", description="asset: a fastText model with __label__xx labels")
    max_characters: int = Field(
        4000, ge=1, description="only this many leading code points are looked at"
    )
    reference: ClassVar[str | None] = "detect_lang_whole_page_enricher"
    _model: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {"language": STRING, "language_probability": pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model,)

    def load(self, assets: AssetFolder) -> None:
        self._model = load_fasttext(assets.path(self.model))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        languages: list[str | None] = []
        probabilities: list[float | None] = []
        for text in batch.text.to_pylist():
            head = text[: self.max_characters].replace("\n", " ")
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

    def reject(self, batch: Batch) -> pa.Array:
        language = batch.column("language")
        missing = language.is_null().to_numpy(zero_copy_only=False)
        other = np.array([value not in self.keep for value in language.to_pylist()], dtype=bool)
        probability = batch.column("language_probability").fill_null(0.0)
        unsure = probability.to_numpy(zero_copy_only=False) < self.min_probability
        return choose(
            [
                (missing, "no_language"),
                (other, "other_language"),
                (unsure, "uncertain_language"),
            ]
        )
