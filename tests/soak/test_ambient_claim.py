"""The claims of the ambient benchmark at the tiny scale, over three seeds: `make soak`.

The mix of a clean tenth and noisy images makes a better generator than either alone, and does not
copy its clean images, as a model of these alone does; all images clean are better still, and noisy
images taken as clean are a trap.
Images of unknown blur, used from an estimated noise level on, are no trap, but no gain in distance
over the clean tenth either: the model copies less, no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import ambient
from ambient import estimates
from ambient.eval_model import load
from ambient.packing.pack import pack_dataset
from ambient.pool import tiny_pool
from ambient.recipe import load_recipe
from ambient.training.train import train
from evals.images.frechet import frechet, mlp_features, moments, nearest
from pipelines.assets.catalogue import Assets
from pipelines.engine.run import run
from pipelines.execution.executors import map_here
from pipelines.execution.progress import say
from pipelines.images.pairs import open_pairs
from pipelines.pipeline import Pipeline

pytestmark = pytest.mark.soak
SEEDS = (0, 1, 2)
BASELINES = Path(ambient.__file__).parent / "baselines"


@dataclass
class Measured:
    """By seed: Frechet distances, and distances to training images over those to held-out ones."""

    distances: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)

    @property
    def distance(self) -> float:
        return float(np.mean(self.distances))


def measured(home: Path, baseline: str, *, at: str, assets: Path | None = None) -> Measured:
    """Models of three seeds of a baseline on the pool in `home / at`."""
    recipe, name = load_recipe("tiny"), f"{baseline}-{at}"
    folders = () if assets is None else (assets,)
    pipeline = Pipeline.load(BASELINES / f"{baseline}.yaml", assets=Assets(folders=folders))
    data, packed = str(home / name / "dataset"), str(home / name / "packed")
    run(pipeline, open_pairs(str(home / at)), out=data, format="uids")
    pack_dataset(data, recipe=recipe, out=packed, map_tasks=map_here)
    file = np.load(home / at / "eval" / tiny_pool.HELD_OUT)
    layers = {key: file[key] for key in file.files if key.startswith(("weight", "bias"))}
    held_out = moments(mlp_features(layers, file["images"]))
    result = Measured()
    for seed in SEEDS:
        out = str(home / name / f"model-{seed}")
        train(packed, recipe=recipe, seed=seed, out=out)
        model = load(out)
        images = model.sample(range(597), seed=0)
        result.distances.append(frechet(moments(mlp_features(layers, images)), held_out))
        ratio = (
            nearest(images, model.training_images()).mean()
            / nearest(images, [file["images"]]).mean()
        )
        result.copies.append(float(ratio))
    shown = " ".join(f"{value:.2f}" for value in result.distances)
    say(f"{name}: distances {shown}, copies {np.mean(result.copies):.2f}")
    return result


def test_the_mix_is_ahead_of_its_parts_and_does_not_copy(tmp_path: Path) -> None:
    tiny_pool.build_tiny(tmp_path / "pool")
    clean = tiny_pool.NOISY.model_copy(update={"clean_share": 1.0})
    tiny_pool.build_tiny(tmp_path / "clean", mix=clean)
    all_clean = measured(tmp_path, "mix", at="clean")
    names = ("mix", "noisy_only", "clean_only", "everything_as_clean")
    mix, noisy, few, trap = (measured(tmp_path, name, at="pool") for name in names)
    assert all_clean.distance < mix.distance
    assert mix.distance < 0.95 * min(few.distance, noisy.distance)
    assert max(few.distance, noisy.distance) < trap.distance
    assert np.mean(few.copies) < 0.5 < 0.8 < min(np.mean(mix.copies), np.mean(all_clean.copies))


def test_images_of_unknown_blur_teach_from_an_estimated_level_on(tmp_path: Path) -> None:
    tiny_pool.build_unknown(tmp_path / "pool")
    opened = open_pairs(str(tmp_path / "pool"))
    scores = tmp_path / "assets" / estimates.NAME
    estimates.estimate(opened, out=str(scores), num_steps=800, seed=0)
    omni = measured(tmp_path, "omni_estimated", at="pool", assets=tmp_path / "assets")
    few = measured(tmp_path, "clean_only", at="pool")
    trap = measured(tmp_path, "unknown_as_clean", at="pool")
    assert max(omni.distance, few.distance) < trap.distance
    assert np.mean(few.copies) < np.mean(omni.copies)
