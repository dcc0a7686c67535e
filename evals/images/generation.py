"""Generated images against held-out ones: the Frechet distance, and copies of training images.

A question is a held-out image; its answer is the generator's image of the same number, from the
fixed sampler. The log has the features of both, and the distances of the generated image to the
nearest training image and to the nearest held-out image, so both scores can be recomputed from the
log alone. The log of the second kind also holds the first images and their nearest neighbours.

    image_generation     Frechet distance in the stated features (Heusel et al. 2017)
    image_memorisation   mean distance to the nearest training image over that to the nearest
                         held-out one, near 1 for new images and near 0 for copies

A bootstrap of a Frechet distance is biased upwards (a resample has fewer distinct images), so its
draws are shifted to have the value as their mean; their spread is the interval.

`TrainingSet` and `GaussianImages` are null models: one repeats the training images (a distance of
nearly 0 and a memorisation of 0), the other knows only the mean and covariance of pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from evals.images.frechet import frechet, mlp_features, moments, nearest
from evals.images.shown_images import NUM_SHOWN, nearest_images, shown_column
from evals.items import Item, Metrics, Tally, TaskData
from evals.kinds import Kind
from evals.metrics import NUM_DRAWS
from evals.models import Floats, ImageGenerator, ModelError
from evals.nulls import NullModel
from evals.tasks import MIN_IMAGES, GenerationTask, TaskBase
from pipelines.errors import DataError
from pipelines.records import digest

MOMENT_NUMBERS = 1 << 21  # float64 numbers of covariances in memory at a time: 16 MB
EXACT_DIM = 256  # feature dimensions up to which all resamples are computed
FEWEST_EXACT = 24  # a standard deviation of 24 draws is known to a seventh, 1 / sqrt(2 * 23)
PRODUCT_NUMBERS = 1 << 22  # float64 numbers of products of all pairs of features: 32 MB
SEEN = 0.25
"""Of the mean distance between a held-out image and the nearest other one: drawn images that are
nearer are held-out ones. Other digits are at 1.2 of it, the mean digit, near to all, at 1.4."""
COMPARED = 1024  # held-out images whose distances from each other are taken
FEATURES_SUFFIX = ".features.pt"


@dataclass(frozen=True, eq=False)
class GenerationData(TaskData):
    """Held-out images (rows, channels, height, width) in [-1, 1], and what computes features."""

    images: Floats = field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.float32))
    held_out: Floats | None = None  # all of the file, where only the first images are asked about
    layers: Mapping[str, Floats] = field(default_factory=dict)
    module: Path | None = None

    @cached_property
    def identity(self) -> str:
        state = hashlib.sha256(self.images.tobytes())
        for name in sorted(self.layers):
            state.update(name.encode() + self.layers[name].tobytes())
        if self.module is not None:
            state.update(self.module.read_bytes())
        return state.hexdigest()

    def features(self, images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Features of images, (images, dim)."""
        if self.module is None:
            return mlp_features(self.layers, images).astype(np.float32)
        import torch

        load: Any = torch.jit.load
        network = load(str(self.module), map_location="cpu").eval()
        with torch.inference_mode():
            parts = [
                network(torch.from_numpy(np.asarray(images[n : n + 64], np.float32)))
                for n in range(0, len(images), 64)
            ]
        return torch.cat(parts).flatten(1).numpy().astype(np.float32)


def generator_of(model: Any, shape: Sequence[int]) -> Any:
    """A null model as a generator of images of this shape; any other model unchanged."""
    if not isinstance(model, NullModel):
        return model
    from evals.images.null_generators import (
        NullGenerator,
    )  # imports torch, which reading logs does not need

    return NullGenerator(model, shape)


def read_held_out(
    task: TaskBase, folder: str, *, number: int | None = None, features: bool = True
) -> GenerationData:
    """Held-out `images` from an .npz file, and the network that computes features.

    The network's layers are in the same file, or a TorchScript file is next to it. With `number`
    only the first images become questions; `features=False` reads no network. DataError for a
    missing or malformed file, or values outside [-1, 1].
    """
    path = Path(folder) / task.file
    if not path.is_file():
        raise DataError(
            f"task {task.name}: there is no file {path}. {task.source} Put the file there, or "
            "choose another folder with --data"
        )
    content = path.read_bytes()
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"task {task.name}: {path} is not an .npz file: {error}") from None
    images = arrays.get("images")
    if images is None or images.ndim != 4 or len(images) < MIN_IMAGES:
        raise DataError(
            f"task {task.name}: {path} has no array `images` of at least {MIN_IMAGES} images "
            "(images, channels, height, width)"
        )
    if not (np.isfinite(images).all() and abs(images).max() <= 1.001):
        raise DataError(f"task {task.name}: {path}: images are not within [-1, 1]")
    layers = {n: v for n, v in arrays.items() if n.startswith(("weight", "bias"))}
    script = path.with_name(path.stem + FEATURES_SUFFIX)
    module = None if layers or not features else script
    if module is not None and not module.is_file():
        raise DataError(
            f"task {task.name}: {path} has no features: put a TorchScript network next to it as "
            f"{script.name}"
        )
    built = Path(folder) / "built.json"
    sha256 = hashlib.sha256(content).hexdigest()
    known = orjson.loads(built.read_bytes())["files"] if built.is_file() else {}
    verified = sha256 == task.sha256 or (task.built and known.get(task.file) == sha256)
    held_out = images.astype(np.float32)
    images = held_out[:number]
    items = tuple(Item(row=row) for row in range(len(images)))
    return GenerationData(
        items, sha256, verified, images=images, held_out=held_out, layers=layers, module=module
    )


class _Generated(Kind[GenerationTask]):
    """Base of both kinds: generate images and log them."""

    whole = True

    def item(self, row: Mapping[str, Any], index: int, task: GenerationTask) -> Item:
        raise DataError("held-out images are not JSON rows")

    def read(self, task: GenerationTask, folder: str) -> TaskData:
        return read_held_out(task, folder)

    def answer(
        self,
        task: GenerationTask,
        data: TaskData,
        rows: Sequence[int],
        model: Any,
        *,
        window: int,
    ) -> pa.Table:
        assert isinstance(data, GenerationData)
        model = generator_of(model, data.images.shape[1:])
        if tuple(model.shape) != data.images.shape[1:]:
            raise ModelError(
                f"task {task.name}: the model draws images of {tuple(model.shape)}, the held-out "
                f"ones are {data.images.shape[1:]}"
            )
        images = _samples(model, len(rows), task.seed)
        if not np.isfinite(images).all():
            raise ModelError(f"task {task.name}: the model drew values that are not finite")
        columns: dict[str, Any] = {"row": pa.array(list(rows), pa.int64())}
        if task.kind == "image_generation":
            columns["features"] = _lists(data.features(images))
            columns["reference"] = _lists(data.features(data.images))
        else:
            training = _checked(task, model.training_images(), data.images.shape[1:])
            columns["train_distance"] = nearest(images, training)
            columns["heldout_distance"] = _unseen(task, nearest(images, [data.images]), data)
            closest = nearest_images(images[:NUM_SHOWN], model.training_images())
            columns["image"] = shown_column(images, rows=len(rows))
            columns["nearest"] = shown_column(closest, rows=len(rows))
        return pa.table(columns)


def _unseen(task: TaskBase, distance: Floats, data: GenerationData) -> Floats:
    """The same distances from held-out images. ModelError where these are what was drawn."""
    few = data.images[:COMPARED]
    apart = nearest(few, [few], skip_self=True).mean()
    if distance.mean() < SEEN * apart:
        raise ModelError(
            f"task {task.name}: the drawn images are {distance.mean():.3g} from held-out ones, "
            f"which are {apart:.3g} from each other; the model has seen them, so that none of its "
            "images is new"
        )
    return distance


def _checked(task: TaskBase, blocks: Iterable[Floats], shape: Sequence[int]) -> Iterator[Floats]:
    """The same training images. ModelError where there are none, or they are no images.

    Not within [-1, 1]: where a pool has no clean images, they are noisy ones.
    """
    number = 0
    for block in blocks:
        if tuple(block.shape[1:]) != tuple(shape) or not np.isfinite(block).all():
            raise ModelError(
                f"task {task.name}: training images {number} to {number + len(block) - 1} are not "
                f"finite images of {tuple(shape)}"
            )
        number += len(block)
        if len(block):
            yield block
    if not number:
        raise ModelError(f"task {task.name}: the model has no training images to compare with")


@lru_cache(maxsize=1)
def _samples(model: ImageGenerator, number: int, seed: int) -> Floats:
    """Both tasks use the same images, so they are generated once."""
    return np.asarray(model.sample(range(number), seed=seed), np.float32)


def _lists(rows: npt.NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1]).cast(
        pa.list_(pa.float32())
    )


def _rows(log: pa.Table, name: str) -> npt.NDArray[np.float64]:
    column = log[name].combine_chunks()
    sizes = np.diff(np.asarray(column.offsets))
    if len(set(sizes.tolist())) != 1:
        raise DataError(f"column {name!r}: features of several lengths")
    flat = np.asarray(column.flatten(), np.float64)
    return flat.reshape(len(log), -1)


class Generation(_Generated):
    """The Frechet distance."""

    def tally(self, task: GenerationTask, log: pa.Table) -> Tally:
        """Squared feature distances: not the score, but finite only if all features are."""
        gaps = ((_rows(log, "features") - _rows(log, "reference")) ** 2).sum(1)
        return Tally(gaps, np.ones(len(log)), np.zeros(len(log), np.int64))

    def estimate(
        self, task: GenerationTask, log: pa.Table, *, seed: int
    ) -> tuple[float, npt.NDArray[np.float64]]:
        made, reference = _rows(log, "features"), _rows(log, "reference")
        value = frechet(moments(made), moments(reference))
        rng = np.random.default_rng(seed)
        exact = num_exact(made.shape[1])
        drawn = np.empty(exact)
        at_once = max(1, MOMENT_NUMBERS // made.shape[1] ** 2)
        for begin in range(0, exact, at_once):
            number = min(at_once, exact - begin)
            first, second = rng.integers(len(made), size=(2, number, len(made)))
            laws = zip(resampled(made, first), resampled(reference, second), strict=True)
            drawn[begin : begin + number] = [frechet(law, other) for law, other in laws]
        drawn -= drawn.mean()
        if exact < NUM_DRAWS:
            further = rng.standard_normal(NUM_DRAWS - exact) * drawn.std(ddof=1)
            drawn = np.concatenate([drawn, further - further.mean()])
        return value, drawn + value

    def metrics(self, task: GenerationTask, log: pa.Table) -> Metrics:
        made, reference = _rows(log, "features"), _rows(log, "reference")
        return {
            "frechet": frechet(moments(made), moments(reference)),
            "kernel": kernel_distance(made, reference),
        }


class Memorisation(_Generated):
    """How near the generated images are to training images."""

    def tally(self, task: GenerationTask, log: pa.Table) -> Tally:
        train, held_out = (
            np.asarray(log[name].to_numpy(), np.float64)
            for name in ("train_distance", "heldout_distance")
        )
        return Tally(train, held_out, np.zeros(len(log), np.int64))


def num_exact(dim: int) -> int:
    """How many resamples are computed: all up to `EXACT_DIM` dimensions, fewer above.

    A distance costs dim^3: five seconds in 2,048 dimensions, so a thousand of them an hour and a
    half. The remaining draws come from a normal distribution with the spread of the computed ones.
    """
    return min(NUM_DRAWS, max(FEWEST_EXACT, int(NUM_DRAWS * (EXACT_DIM / dim) ** 3)))


def resampled(
    rows: npt.NDArray[np.float64], draws: npt.NDArray[np.int64]
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Mean and covariance of each resample, from how often each row occurs in it.

    `draws` (draws, rows) are row numbers. Rows are centred first, so that subtracting the squared
    mean loses no digits.
    """
    number, dim = rows.shape
    centre = rows.mean(0)
    apart = rows - centre
    counts = np.stack([np.bincount(draw, minlength=number) for draw in draws]).astype(np.float64)
    means = counts @ apart / number
    if dim * dim * number <= PRODUCT_NUMBERS:
        products = (apart[:, :, None] * apart[:, None, :]).reshape(number, dim * dim)
        squares = (counts @ products / number).reshape(-1, dim, dim)
    else:
        squares = np.stack([(apart * count[:, None]).T @ apart / number for count in counts])
    covariances = (squares - means[:, :, None] * means[:, None, :]) * (number / (number - 1))
    return list(zip(means + centre, covariances, strict=True))


def kernel_distance(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """Unbiased squared maximum mean discrepancy with (x.y / dim + 1)^3 (Binkowski et al. 2018)."""
    dim = first.shape[1]

    def inner(rows: npt.NDArray[Any]) -> float:
        kernel = (rows @ rows.T / dim + 1) ** 3
        number = len(rows)
        return float((kernel.sum() - np.trace(kernel)) / (number * (number - 1)))

    cross = float(((first @ second.T / dim + 1) ** 3).mean())
    return inner(first) + inner(second) - 2 * cross


class TrainingSet:
    """A null model that repeats its training images."""

    def __init__(self, images: Floats) -> None:
        self._images = np.asarray(images, np.float32)
        self.shape = tuple(self._images.shape[1:])
        self.id = digest(["training set", hashlib.sha256(self._images.tobytes()).hexdigest()])
        self.settings: dict[str, Any] = {"null": "training_set"}

    @cached_property
    def denoiser(self) -> Any:
        """The exact denoiser of a model that memorised these images."""
        from evals.images.exact_denoisers import MemoryDenoiser

        return MemoryDenoiser(self._images)

    def sample(self, indices: Sequence[int], *, seed: int) -> Floats:
        result: Floats = self._images[[index % len(self._images) for index in indices]]
        return result

    def training_images(self) -> Iterable[Floats]:
        return [self._images]


class GaussianImages(TrainingSet):
    """A null model that knows only the mean and covariance of its training images' pixels."""

    def __init__(self, images: Floats) -> None:
        super().__init__(images)
        self.id = digest(["gaussian", self.id])
        self.settings = {"null": "gaussian"}
        flat = self._images.reshape(len(images), -1).astype(np.float64)
        self._mean = flat.mean(0)
        values, vectors = np.linalg.eigh(np.cov(flat, rowvar=False))
        self._root = vectors * np.sqrt(values.clip(min=0))

    @cached_property
    def denoiser(self) -> Any:
        from evals.images.exact_denoisers import GaussianDenoiser

        return GaussianDenoiser(self._images)

    def sample(self, indices: Sequence[int], *, seed: int) -> Floats:
        rows = [np.random.default_rng([seed, i]).standard_normal(len(self._mean)) for i in indices]
        drawn = self._mean + np.array(rows) @ self._root.T
        return drawn.clip(-1, 1).astype(np.float32).reshape(-1, *self.shape)


KINDS: dict[str, Kind[GenerationTask]] = {
    "image_generation": Generation(),
    "image_memorisation": Memorisation(),
}
