"""Short captions cost less: the text tower runs on as many places as the longest text needs.

The tower is causal and its output is read at the end-of-text token, so places behind that token
change neither the output nor any gradient. open_clip computes all 77; captions have 15 or so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

EncodeText = Callable[..., torch.Tensor]


def encode_text(
    given: EncodeText, model: Any, text: torch.Tensor, normalize: bool = False
) -> torch.Tensor:
    """What `given`, the model's own `encode_text`, makes of token ids (texts, places).

    Equal to it up to the rounding of sums of other lengths. Models whose tower is not causal, or
    not read at the last token, go through unchanged.
    """
    if not _can_be_short(model):
        return given(model, text, normalize=normalize)
    places = int(text.argmax(dim=1).max()) + 1  # end-of-text is the largest id
    with _shortened(model, places):
        return given(model, text[:, :places], normalize=normalize)


def _can_be_short(model: Any) -> bool:
    return (
        type(model).__name__ == "CLIP"
        and getattr(model, "attn_mask", None) is not None
        and getattr(model, "text_pool_type", "") == "argmax"
    )


@contextmanager
def _shortened(model: Any, places: int) -> Iterator[None]:
    """Positions and mask cut to the first places; gradients reach the whole parameter."""
    position, mask = model._parameters["positional_embedding"], model._buffers["attn_mask"]
    model._parameters["positional_embedding"] = position[:places]
    model._buffers["attn_mask"] = mask[:places, :places]
    try:
        yield
    finally:
        model._parameters["positional_embedding"], model._buffers["attn_mask"] = position, mask
