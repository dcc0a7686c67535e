"""The tiny pool: scikit-learn's digits of 8 x 8 pixels, a tenth of them clean.

1,797 digits (Alpaydin and Kaynak 1998). By hash, 597 are held out for evaluation; the other 1,200
are the pool. Frechet distances are of the features of a small network over digits that comes with
this package (`ambient/assets/digit_features.npz`, made by `python -m ambient.pool.tiny_pool`).
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ambient.pool.corruption import Floats
from ambient.pool.pool import EVAL, Mix, Original, build
from pipelines.errors import PoolError
from pipelines.records import PoolRecord, PoolSource
from pipelines.storage.base import write_bytes
from pipelines.storage.local import LocalStore

POOL_IMAGES = 1200  # of 1,797 digits; the others are held out
LEVEL = 0.5  # of the noise: a digit is hard to read, and its own level is the middle of training
FEATURES = Path(__file__).parents[1] / "assets" / "digit_features.npz"
HELD_OUT = "digits_heldout.npz"


Labels = np.ndarray[Any, np.dtype[np.int64]]


def digits() -> tuple[Floats, Labels]:
    """All digits in [-1, 1], (1797, 1, 8, 8), in the order of a hash of their number; labels."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise PoolError("the tiny pool needs scikit-learn: pip install -e '.[ambient]'") from None
    data = load_digits()
    order = sorted(range(len(data.images)), key=lambda n: hashlib.sha256(b"%d" % n).digest())
    images = (data.images[order] / 8 - 1).astype(np.float32)[:, None]
    return images, np.asarray(data.target[order], np.int64)


NOISY = Mix(clean_share=0.1, kind="gaussian", level=LEVEL)
BLURRED = Mix(clean_share=0.1, kind="blur", levels=(0.4, 0.7, 1.0, 1.5, 2.0))
"""The pool of the track `unknown`: from hardly visible to a stain."""


def build_tiny(
    folder: Path, *, mix: Mix = NOISY, name: str = "ambient-tiny", withheld: Path | None = None
) -> PoolRecord:
    """Write the pool and its evaluation data; `withheld` as in `build`."""
    images, labels = digits()
    write_held_out(folder, HELD_OUT, images[POOL_IMAGES:], labels[POOL_IMAGES:], features=FEATURES)
    originals = (
        Original(f"digit {n}", image, int(label))
        for n, (image, label) in enumerate(
            zip(images[:POOL_IMAGES], labels[:POOL_IMAGES], strict=True)
        )
    )
    sha256 = hashlib.sha256(images.tobytes()).hexdigest()
    source = PoolSource(
        name="scikit-learn digits", version="1", sha256=sha256, licence="CC BY 4.0", status="pinned"
    )
    return build(
        originals,
        str(folder),
        mix=mix,
        name=name,
        sources=[source],
        shard_rows=300,
        withheld=withheld,
    )


def build_unknown(folder: Path) -> PoolRecord:
    """The tiny pool of the track `unknown`; the organiser's table is next to its folder."""
    withheld = folder.with_name(f"{folder.name}.withheld.parquet")
    return build_tiny(folder, mix=BLURRED, name="ambient-tiny-unknown", withheld=withheld)


def write_held_out(
    folder: Path, name: str, images: Floats, labels: Labels, *, features: Path
) -> None:
    """Write the evaluation data of a built pool: held-out images and the layers of a network."""
    data = io.BytesIO()
    with np.load(features) as file:
        layers = {key: file[key].astype(np.float32) for key in file.files}
    np.savez(data, images=images, labels=labels, **layers)  # type: ignore[arg-type]
    store = LocalStore(folder / EVAL)
    write_bytes(store, name, data.getvalue())
    built = {"files": {name: hashlib.sha256(data.getvalue()).hexdigest()}}
    write_bytes(store, "built.json", orjson.dumps(built))


def train_features(
    path: Path,
    images: Floats,
    labels: Labels,
    *,
    hidden: tuple[int, int] = (64, 32),
    max_iter: int = 400,
    dtype: type[np.floating[Any]] = np.float32,
) -> float:
    """Fit the feature network on digits and their labels; returns its accuracy."""
    from sklearn.neural_network import MLPClassifier

    rows = images.reshape(len(images), -1)
    net = MLPClassifier(hidden, alpha=1e-2, max_iter=max_iter, random_state=0).fit(rows, labels)
    layers = {
        f"{kind}{n}": values.astype(dtype)
        for n in range(2)
        for kind, values in (("weight", net.coefs_[n]), ("bias", net.intercepts_[n]))
    }
    np.savez(path, **layers)  # type: ignore[arg-type]
    return float(net.score(rows, labels))


if __name__ == "__main__":
    train_features(FEATURES, *digits())
