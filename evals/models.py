"""The protocols that models implement to be evaluated, and the data they exchange.

A `Query` is one context and the continuations that may follow it. Passing them together lets a
model compute the context once and run the continuations on its key/value cache. A model returns
the loss of every continuation token, never a sum or a mean: `evals.text.language` turns losses into
scores, in one place for all models.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from pipelines.errors import FailedError

Ids = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]


Precision = Literal["fp32", "bf16"]


class ModelError(FailedError):
    """A model returned an invalid answer, such as a loss that is not finite."""


@dataclass(frozen=True)
class Query:
    """One context (at least one token) and the continuations to score after it."""

    context: Ids
    continuations: tuple[Ids, ...]


@dataclass(frozen=True)
class TokenScores:
    """The scores of one continuation, token by token.

    `losses` is the cross-entropy of each token in nats, float32, computed from float32 logits;
    `greedy` the id with the largest logit at each position.
    """

    losses: Floats
    greedy: Ids


LEAST_LOSS = -1e-4  # nats: a cross-entropy is 0 or more, up to the rounding of its logarithm


def loss_fault(losses: np.ndarray[Any, np.dtype[np.floating[Any]]]) -> str | None:
    """Why these are not cross-entropies, as the end of a sentence; None when they are."""
    if not np.isfinite(losses).all():
        return "a loss that is not a number; its weights or its precision are broken"
    if (losses < LEAST_LOSS).any():
        return f"a loss of {losses.min():.4g} nats, so a probability above 1"
    return None


class Encoder(Hashable, Protocol):
    """Turns texts into token ids without adding special ones.

    It may have `prompt_start`, ids that a tokenizer puts before every prompt (a beginning token);
    they occur once, before the shots, and are cut first if a prompt is longer than the window.
    """

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]: ...


@runtime_checkable
class LanguageModel(Hashable, Protocol):
    """A causal language model.

    `id` is the id of the model record, or another hash of the weights where there is none.
    `document_start` is the id before the first token of a document. `max_length` is
    the longest sequence the model can take, None where there is no such limit. `settings` says
    how it computes (precision, path, tokenizer): it becomes a part of the record.
    """

    id: str
    settings: dict[str, Any]
    vocab_size: int
    document_start: int
    max_length: int | None

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; no beginning or end token is added."""
        ...

    def detokenise(self, ids: Sequence[int]) -> str: ...

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        """For each query, the scores of each of its continuations, in order."""
        ...

    def generate(
        self, contexts: Sequence[Ids], *, max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        """Greedy continuations of at most `max_new_tokens` tokens.

        A continuation ends early after a token that ends a document (`document_start` where a
        model has one token for both), or once `is_done` is true of its text so far.
        """
        ...


@runtime_checkable
class Distributions(Protocol):
    """An optional ability of a language model: the whole next-token distribution."""

    def next_losses(self, contexts: Sequence[Ids]) -> Floats:
        """The loss in nats of every id as the next one, (contexts, vocabulary) float32."""
        ...


class TokenizerFile:
    """An Encoder over a tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]


def as_encoder(tokenizer: Any) -> Encoder:
    """An Encoder: the object itself, or one around a tokenizer of the `tokenizers` library."""
    if hasattr(tokenizer, "tokenise"):
        return tokenizer  # type: ignore[no-any-return]
    if hasattr(tokenizer, "encode_batch_fast"):
        return TokenizerFile(tokenizer)
    raise TypeError(
        f"cannot tokenise with a {type(tokenizer).__name__}: expected a tokenizers.Tokenizer or "
        "an object with tokenise(texts) -> lists of ids"
    )


class ImageError(ValueError):
    """An image that does not decode: its position among the images passed, and why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"image {position}: {reason}")
        self.position, self.reason = position, reason


@runtime_checkable
class ImageTextModel(Hashable, Protocol):
    """A model with a shared space for images and texts.

    `id` and `settings` as for a language model. Features are float32, (number, dim), as the towers
    output them, not normalised.
    """

    id: str
    settings: dict[str, Any]

    def encode_images(self, images: Iterable[bytes]) -> Floats:
        """Features of encoded images (JPEG, PNG, WebP), in order. ImageError for a bad one."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Floats: ...


@runtime_checkable
class ImageGenerator(Hashable, Protocol):
    """A model that generates images in [-1, 1] of one shape (channels, height, width).

    `id` and `settings` as for a language model; the settings name the sampler. `denoiser` is what
    a sampler evaluates (`evals.images.sampling.Denoiser`).
    """

    id: str
    settings: dict[str, Any]
    shape: tuple[int, int, int]
    denoiser: Any

    def sample(self, indices: Sequence[int], *, seed: int) -> Floats:
        """The images of these indices, (indices, *shape) float32, independent of each other."""
        ...

    def training_images(self) -> Iterable[Floats]:
        """The clean training images, in blocks (n, *shape). DataError if they are missing."""
        ...


class ModelLoader(Protocol):
    """The part of an installed benchmark that loads its own models."""

    def load(
        self,
        model: str,
        *,
        device: str | None,
        precision: Precision,
        exact: bool,
        batch_tokens: int | None,
    ) -> LanguageModel | ImageTextModel | ImageGenerator: ...
