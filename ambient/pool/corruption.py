"""Corruption of an image, applied once when a pool is built, from a hash of uid and seed.

An image is a float32 array (channels, height, width) in [-1, 1]. Noisy images are kept as float16,
never clipped or rounded to bytes: the loss needs the noise to have mean 0. New noise or a new
mask in each epoch would reveal the clean image after a few epochs.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pipelines.image_text.corruption import KINDS, Kind

Floats = npt.NDArray[np.float32]


def generator_of(uid: str, seed: int, use: str) -> np.random.Generator:
    """Random numbers for one use of one image; the same on every machine."""
    state = hashlib.sha256(f"{use}|{seed}|{uid}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(state[:16], "big")))


def mask_of(uid: str, seed: int, level: float, shape: tuple[int, int]) -> Floats:
    """1 where a pixel of an image with the corruption `mask` is seen, (height, width)."""
    return (generator_of(uid, seed, "mask").random(shape) >= level).astype(np.float32)


def lines_of(uid: str, seed: int, level: float, width: int) -> Floats:
    """1 for the columns of the centred Fourier transform that are measured, (width,).

    `level` is the acceleration: width / level columns, a third of them the lowest frequencies.
    """
    number = max(1, round(width / level))
    centre = max(1, number // 3)
    lines = np.zeros(width, np.float32)
    low = width // 2 - centre // 2  # the lowest frequency is at width // 2
    lines[low : low + centre] = 1
    rest = np.flatnonzero(lines == 0)
    chosen = generator_of(uid, seed, "fourier").permutation(rest)[: number - centre]
    lines[chosen] = 1
    return lines


def corrupt(image: Floats, kind: Kind, level: float, *, uid: str, seed: int) -> Floats:
    """The corrupted image, float32. ValueError for a level that the kind does not have."""
    check_level(kind, level)
    if kind == "gaussian":
        noise = generator_of(uid, seed, "noise").standard_normal(image.shape)
        return (image + level * noise).astype(np.float32)
    if kind == "mask":
        return image * mask_of(uid, seed, level, image.shape[1:])
    if kind == "blur":
        from scipy.ndimage import gaussian_filter

        return np.stack([gaussian_filter(channel, level) for channel in image]).astype(np.float32)
    if kind == "fourier":
        lines = lines_of(uid, seed, level, image.shape[2])
        spectrum = np.fft.fftshift(np.fft.fft2(image), axes=(1, 2)) * lines
        return np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(1, 2))).real.astype(np.float32)
    return image


def check_level(kind: Kind, level: float) -> None:
    """ValueError for a level outside what the kind has."""
    if kind not in KINDS:
        raise ValueError(f"unknown corruption {kind!r}; known: {', '.join(KINDS)}")
    limits = {"none": (0, 0), "gaussian": (0, 100), "mask": (0, 1), "blur": (0, 100)}
    low, high = limits.get(kind, (1, 1000))
    if not low <= level <= high:
        raise ValueError(f"corruption {kind} has levels from {low} to {high}, got {level}")
