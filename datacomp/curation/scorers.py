"""What gives a pair of image and caption a number: CLIP similarity, or a perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.images.decode import DECODE_ERRORS, fault_of, open_image, rgb
from pipelines.records import Frozen, digest

Floats = npt.NDArray[np.float64]


class ImageFault(ValueError):
    """An image that does not decode: its place in the chunk, and why."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index, self.reason = index, reason


class Scorer(Protocol):
    """Gives each pair of an image and a caption a number."""

    def __call__(self, images: Sequence[bytes], captions: Sequence[str]) -> Floats:
        """One number a pair. ImageFault for the first image that does not decode."""
        ...


class ScorerSpec(Frozen):
    """Which scorer, as it travels to workers: its kind, and the model that it needs."""

    kind: Literal["clip", "phash"]
    model: str = ""
    device: str | None = None

    def load(self) -> Scorer:
        return clip_scorer(self.model, self.device) if self.kind == "clip" else phash


@lru_cache(maxsize=2)
def loaded(spec: ScorerSpec) -> Scorer:
    return spec.load()


def clip_scorer(model: str, device: str | None) -> Scorer:
    """The cosine of an image's and a caption's features, by a model of ours or of open_clip.

    (Radford et al. 2021; the pool's own columns are the same figure of OpenAI's models.)
    """
    from datacomp.eval_model import load
    from evals.models import ImageError

    loaded = load(model, device=device)

    def similarity(images: Sequence[bytes], captions: Sequence[str]) -> Floats:
        try:
            image_features = loaded.encode_images(images)
        except ImageError as error:
            raise ImageFault(error.position, error.reason) from None
        texts = loaded.encode_texts(captions)
        image_features = image_features / np.linalg.norm(image_features, axis=1, keepdims=True)
        texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        return np.einsum("ij,ij->i", image_features, texts).astype(np.float64)

    return similarity


HASH_SIDE = 32  # pixels: the size that perceptual hashes are taken from


def phash(images: Sequence[bytes], captions: Sequence[str]) -> Floats:
    """Perceptual hashes of 48 bits, as whole numbers: alike images have equal or near ones.

    The image in grey at 32 x 32 pixels, its discrete cosine transform, of that the 7 x 7 lowest
    frequencies without the mean; a bit says whether one is above their median. (Zauner 2010; 48 of
    the usual 64 bits, so that a float64 column holds them exactly)
    """
    hashes = np.zeros(len(images))
    for number, data in enumerate(images):
        try:
            with open_image(data) as image:
                eight_bits = image.mode not in ("F", "I") and not image.mode.startswith("I;")
                grey = (image if eight_bits else rgb(image)).convert("L")
                grey = grey.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BOX)
        except DECODE_ERRORS as error:
            raise ImageFault(number, fault_of(error)) from None
        low = (_DCT @ np.asarray(grey, np.float64) @ _DCT.T)[:7, :7].reshape(-1)[1:]
        bits = low > np.median(low)
        hashes[number] = int(np.packbits(bits, bitorder="big").tobytes().hex(), 16)
    return hashes


def _dct() -> Floats:
    """The matrix of the type-II transform, (frequency, place)."""
    positions = np.arange(HASH_SIDE)
    return np.cos(np.pi * (2 * positions[None, :] + 1) * positions[:, None] / (2 * HASH_SIDE))


_DCT = _dct()


def scorer_id(spec: ScorerSpec) -> str:
    """What names a scorer in records: the id of its model, or the version of its method."""
    if spec.kind == "phash":
        return digest(["phash", 1])
    from datacomp.eval_model import load

    return str(load(spec.model, device=spec.device).id)
