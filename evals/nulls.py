"""Null models: they know nothing, so they must score as guessing does, or be refused.

Every metric of a benchmark is tested with these (`tests/evals/test_nulls.py`; to try one:
`evals run null:KIND`). A null that scores above guessing shows a fault of the metric, not skill.

Of texts (a byte is a token):
    uniform         every next byte has the same probability
    random          a distribution drawn by hash from the whole context
    context_blind   a distribution of the next byte that no context changes
    first_option    the first continuation of a query gets the lowest loss
    longest_option  the longer a continuation, the lower its mean loss
    zeros           loss 0 for everything, so probabilities that sum to the size of the vocabulary
    negative        a loss of -5 nats for everything
    nan             no numbers
Of images and texts in one space:
    constant        one vector for every image, one for every text
    zeros           vectors of zeros
    random          a vector drawn by hash from the bytes
    image_blind     one vector for every image, texts by hash
    text_blind      one vector for every text, images by hash
    nan             no numbers
Of image generators (`evals.images.null_generators`): constant, random, identity, nan.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from evals.models import Floats, Ids, Query, TokenScores
from evals.tasks import EvalError
from pipelines.records import digest

TEXT_NULLS = (
    "uniform",
    "random",
    "context_blind",
    "first_option",
    "longest_option",
    "zeros",
    "negative",
    "nan",
)
IMAGE_NULLS = ("constant", "zeros", "random", "image_blind", "text_blind", "nan")
IMAGE_GENERATOR_NULLS = ("constant", "random", "identity", "nan")
PREFIX = "null:"
VOCABULARY = 257  # one id per byte, and the start of a document
DIM = 32  # of the vectors of image nulls; any size serves
NEGATIVE_NATS = -5.0  # for every byte; no probability has a negative loss


class NullModel:
    """One of the null models, with the protocols of both modalities. Deterministic."""

    def __init__(self, kind: str) -> None:
        kinds = dict.fromkeys((*TEXT_NULLS, *IMAGE_NULLS, *IMAGE_GENERATOR_NULLS))
        if kind not in kinds:
            known = ", ".join(kinds)
            raise EvalError(f"there is no null model {kind!r}; choose one of {known}")
        self.kind = kind
        self.id = digest(["null model", kind])
        self.settings: dict[str, Any] = {"null": kind, "precision": "fp32"}
        self.vocab_size = VOCABULARY
        self.document_start = 0
        self.max_length: int | None = None

    def __hash__(self) -> int:
        return hash(self.kind)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NullModel) and other.kind == self.kind

    # ---- a language model

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        return [[byte + 1 for byte in text.encode()] for text in texts]

    def detokenise(self, ids: Sequence[int]) -> str:
        return bytes(token - 1 for token in ids if token).decode("utf-8", "replace")

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        return [
            [self._scores(query.context, answer, n) for n, answer in enumerate(query.continuations)]
            for query in queries
        ]

    def next_losses(self, contexts: Sequence[Ids]) -> Floats:
        return np.stack([self._distribution(context) for context in contexts])

    def generate(
        self, contexts: Sequence[Ids], *, max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        """Nothing at all, or for `random` bytes by hash."""
        if self.kind != "random":
            return [[] for _ in contexts]
        return [
            [1 + byte for byte in hashlib.sha256(context.tobytes()).digest()[:max_new_tokens]]
            for context in contexts
        ]

    def _scores(self, context: Ids, answer: Ids, number: int) -> TokenScores:
        greedy = np.zeros(len(answer), np.int32)
        if self.kind == "first_option":
            losses = np.full(len(answer), 1.0 + number, np.float32)
        elif self.kind == "longest_option":
            losses = np.full(len(answer), 5.0 / len(answer), np.float32)
        elif self.kind in ("random", "context_blind"):
            losses = np.empty(len(answer), np.float32)
            for position, token in enumerate(answer):
                distribution = self._distribution(context)
                losses[position], greedy[position] = distribution[token], distribution.argmin()
                context = np.append(context, token)
        else:
            losses = np.full(len(answer), self._distribution(context)[0], np.float32)
        return TokenScores(losses, greedy)

    def _distribution(self, context: Ids) -> Floats:
        flat = {"zeros": 0.0, "negative": NEGATIVE_NATS, "nan": math.nan}
        if self.kind in flat:
            return np.full(VOCABULARY, flat[self.kind], np.float32)
        if self.kind in ("random", "context_blind"):
            seed = context.tobytes() if self.kind == "random" else b""
            logits = _vectors([seed], VOCABULARY)[0].astype(np.float64)
            result: Floats = (np.log(np.exp(logits).sum()) - logits).astype(np.float32)
            return result
        return np.full(VOCABULARY, math.log(VOCABULARY), np.float32)

    # ---- images and texts in one space

    def encode_images(self, images: Iterable[bytes]) -> Floats:
        return self._features(images, blind=self.kind in ("constant", "image_blind"))

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        given = (text.encode() for text in texts)
        return self._features(given, blind=self.kind in ("constant", "text_blind"))

    def _features(self, given: Iterable[bytes], *, blind: bool) -> Floats:
        keys = [b"" if blind else hashlib.sha256(data).digest() for data in given]
        if self.kind in ("zeros", "nan"):
            return np.full((len(keys), DIM), 0.0 if self.kind == "zeros" else np.nan, np.float32)
        return _vectors(keys, DIM)


def _vectors(keys: Sequence[bytes], dim: int) -> Floats:
    """Normal numbers by hash of each key, (keys, dim) float32."""
    seeds = [int.from_bytes(hashlib.sha256(key).digest()[:8], "big") for key in keys]
    rows = [np.random.default_rng(seed).standard_normal(dim) for seed in seeds]
    return np.array(rows, np.float32).reshape(len(keys), dim)


def null_model(name: str) -> NullModel:
    """The null model of a name such as `null:uniform`."""
    return NullModel(name.removeprefix(PREFIX))
