"""Encode short texts faster: the text tower computes only as many positions as the longest text.

The tower is causal and its output is read at the end-of-text token, so positions after that token
change neither the output nor any gradient. open_clip computes all 77; captions have about 15.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

EncodeText = Callable[..., torch.Tensor]


def encode_text(
    own: EncodeText, model: Any, text: torch.Tensor, normalize: bool = False
) -> torch.Tensor:
    """The features (texts, dim) of token ids (texts, positions) by `own`, the model's method.

    Equal to its result up to rounding, since sums have other lengths. If the model's tower is not
    causal, or not read at the last token, all positions are computed.
    """
    if not _can_be_short(model):
        return own(model, text, normalize=normalize)
    length = int(text.argmax(dim=1).max()) + 1  # end-of-text is the largest id
    with _shortened(model, length):
        return own(model, text[:, :length], normalize=normalize)


def _can_be_short(model: Any) -> bool:
    return (
        type(model).__name__ == "CLIP"
        and getattr(model, "attn_mask", None) is not None
        and getattr(model, "text_pool_type", "") == "argmax"
    )


@contextmanager
def _shortened(model: Any, length: int) -> Iterator[None]:
    """Cut positional embedding and mask to `length`; gradients still reach the whole parameter."""
    position, mask = model._parameters["positional_embedding"], model._buffers["attn_mask"]
    model._parameters["positional_embedding"] = position[:length]
    model._buffers["attn_mask"] = mask[:length, :length]
    try:
        yield
    finally:
        model._parameters["positional_embedding"], model._buffers["attn_mask"] = position, mask
