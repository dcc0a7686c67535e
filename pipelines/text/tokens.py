"""Counting tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier


class TokenCount(Modifier, name="token_count"):
    """Add `num_tokens`: how many tokens a tokenizer makes of the text."""

    tokenizer: str = Field(description="asset: a tokenizer.json")
    _tokenizer: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {"num_tokens": pa.int64()}

    def assets(self) -> tuple[str, ...]:
        return (self.tokenizer,)

    def load(self, assets: AssetFolder) -> None:
        from pipelines.text.bpe import BatchEncoder

        self._tokenizer = BatchEncoder(assets.path(self.tokenizer).read_bytes())

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        return {"num_tokens": pa.array(self._tokenizer.counts(batch.text.to_pylist()))}
