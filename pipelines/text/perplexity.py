"""Perplexity of a text under an n-gram model (Heafield 2011), after CCNet (Wenzek et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier
from pipelines.text import fields
from pipelines.text.normalize import ccnet_line


class Perplexity(Modifier, name="perplexity"):
    """Add the perplexity under a KenLM model over SentencePiece tokens, rounded to one decimal.

    The text is normalised as CCNet does: digits as 0, punctuation in ASCII, control characters
    deleted, newlines among them, so a document is scored as one line.
    10 ** (-log10 score / (tokens + 1)).
    """

    model: str = Field("en.arpa.bin", description="asset: a KenLM model")
    tokenizer: str = Field("en.sp.model", description="asset: its SentencePiece model")
    column: str = Field("kenlm_perplexity", min_length=1, description="column to write")
    overwrite: bool = Field(False, description="replace a field of this name; else it is an error")
    reference: ClassVar[str | None] = "ken_lm_perplexity_enricher"
    _model: Any = PrivateAttr(None)
    _tokenizer: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return (self.model, self.tokenizer)

    def load(self, assets: AssetFolder) -> None:
        try:
            import kenlm
            import sentencepiece
        except ImportError as error:
            raise ValueError(
                f"{self.name} needs packages: pip install kenlm sentencepiece ({error})"
            ) from None
        self._model = kenlm.Model(str(assets.path(self.model)))
        self._tokenizer = sentencepiece.SentencePieceProcessor()
        self._tokenizer.load(str(assets.path(self.tokenizer)))

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        fields.absent(batch, self.column, overwrite=self.overwrite)
        values = [self._perplexity(text) for text in batch.text.to_pylist()]
        return {self.column: pa.array(values, type=pa.float64())}

    def _perplexity(self, text: str) -> float:
        tokens = self._tokenizer.encode_as_pieces(ccnet_line(text))
        score = self._model.score(" ".join(tokens))
        return round(10.0 ** (-score / (len(tokens) + 1)), 1)
