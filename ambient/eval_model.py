"""A trained denoiser with the protocol of evals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from ambient.recipe import Recipe
from ambient.training.data import Images
from ambient.training.model import build, device_of
from ambient.training.train import CONFIG, WEIGHTS
from evals.images.sampling import generate
from evals.models import Floats
from pipelines.errors import DataError
from pipelines.records import ModelRecord, PackedRecord, parse_record, sha256_file
from pipelines.storage.chain import RECORD, read_chain
from pipelines.storage.open import open_store

CLEAN_AT_ONCE = 4096  # clean training images in memory together


class Generator:
    """An ImageGenerator over a folder that `ambient train` wrote. Equal models hash equally."""

    def __init__(self, folder: str, record: ModelRecord, *, device: str | None) -> None:
        from safetensors.torch import load_file

        path = Path(folder)
        config = orjson.loads((path / CONFIG).read_bytes())
        self.recipe = Recipe.model_validate(config["recipe"])
        self.denoiser = build(self.recipe, masked=config["masked"])
        self.denoiser.load_state_dict(load_file(path / WEIGHTS))
        self._device = device_of(device)
        self.denoiser.to(self._device).eval().requires_grad_(False)
        self.id = record.id
        self.shape = (self.recipe.channels, self.recipe.resolution, self.recipe.resolution)
        self.settings: dict[str, Any] = {
            "sampler": "heun",
            "num_steps": self.recipe.sampler_steps,
            "precision": "fp32",
        }
        self._packed = record.made_by.locations.get("packed", "")
        self._reload = (_reload, (folder, device))

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reload

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Generator) and other.id == self.id

    def sample(self, indices: Sequence[int], *, seed: int) -> Floats:
        """The images of these indices from the fixed sampler, in [-1, 1]."""
        images = generate(
            self.denoiser,
            indices,
            self.shape,
            seed=seed,
            num_steps=self.recipe.sampler_steps,
            device=str(self._device),
        )
        return images.clamp(-1, 1).numpy()

    def training_images(self) -> Iterator[Floats]:
        """The training images used as clean (all if none was), in blocks (n, *shape)."""
        store = open_store(self._packed) if self._packed else None
        if store is None or not store.exists(RECORD):
            raise DataError(
                f"the packed images of model {self.id} are not in {self._packed or 'a known place'}"
                "; memorisation is measured against them"
            )
        record = read_chain(store)[-1]
        assert isinstance(record, PackedRecord)
        images = Images(store, record)
        places = images.clean()
        for begin in range(0, len(places), CLEAN_AT_ONCE):
            yield images.rows(places[begin : begin + CLEAN_AT_ONCE])


def load(model: str, *, device: str | None = None) -> Generator:
    """A model by its folder. DataError when it has none, or weights that differ from its record."""
    path = Path(model)
    if not (path / RECORD).is_file():
        raise DataError(f"{model} has no {RECORD}: give a folder that `ambient train` finished")
    record = parse_record((path / RECORD).read_bytes(), source=f"{model}/{RECORD}")
    if not isinstance(record, ModelRecord) or record.work.benchmark != "ambient":
        raise DataError(f"{model} holds no image generator, but a {record.kind} record")
    for file in record.outputs:
        if sha256_file(path / file.name) != file.sha256:
            raise DataError(f"{model}/{file.name} is not the file that its record names")
    return Generator(model, record, device=device)


@lru_cache(maxsize=1)
def _reload(folder: str, device: str | None) -> Generator:
    """Load once per worker process, for any number of tasks."""
    return load(folder, device=device)
