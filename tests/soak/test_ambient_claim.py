"""The claim of the ambient benchmark at the tiny scale, over three seeds: `make soak`.

The mix of a clean tenth and noisy images makes a better generator than the clean tenth alone, and
copies it less; all images clean are better still, and noisy images taken as clean are a trap. That
the mix beats the noisy images alone is not held: on one seed they were level.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ambient
from ambient.eval_model import load
from ambient.packing.pack import pack_dataset
from ambient.pool import pool, tiny_pool
from ambient.recipe import load_recipe
from ambient.training.train import train
from evals.images.frechet import frechet, mlp_features, moments, nearest
from pipelines.engine.run import run
from pipelines.execution.executors import map_here
from pipelines.pipeline import Pipeline

SEEDS = (0, 1, 2)
BASELINES = Path(ambient.__file__).parent / "baselines"


@pytest.mark.soak
def test_the_mix_is_ahead_of_the_clean_tenth_and_copies_less(tmp_path: Path) -> None:
    distances: dict[str, list[float]] = {}
    copies: dict[str, list[float]] = {}
    recipe = load_recipe("tiny")
    for name, share in (
        ("clean100", 1.0),
        ("mix", 0.1),
        ("clean_only", 0.1),
        ("everything_as_clean", 0.1),
    ):
        home = tmp_path / name
        mix = pool.Mix(clean_share=share, kind="gaussian", level=tiny_pool.LEVEL)
        tiny_pool.build_tiny(home / "pool", mix=mix)
        baseline = "mix" if name == "clean100" else name
        pipeline = Pipeline.load(BASELINES / f"{baseline}.yaml")
        opened = pool.open_images(str(home / "pool"))
        run(pipeline, opened, out=str(home / "dataset"), format="uids")
        packed = str(home / "packed")
        pack_dataset(str(home / "dataset"), recipe=recipe, out=packed, map_tasks=map_here)
        data = np.load(home / "pool" / "eval" / tiny_pool.HELD_OUT)
        layers = {key: data[key] for key in data.files if key.startswith(("weight", "bias"))}
        held_out = moments(mlp_features(layers, data["images"]))
        for seed in SEEDS:
            out = str(home / f"model-{seed}")
            train(packed, recipe=recipe, seed=seed, out=out)
            model = load(out)
            images = model.sample(range(597), seed=0)
            distance = frechet(moments(mlp_features(layers, images)), held_out)
            ratio = (
                nearest(images, model.training_images()).mean()
                / nearest(images, [data["images"]]).mean()
            )
            distances.setdefault(name, []).append(distance)
            copies.setdefault(name, []).append(float(ratio))
    means = {name: float(np.mean(values)) for name, values in distances.items()}
    assert means["clean100"] < 0.9 * means["mix"], distances
    assert means["mix"] < 0.9 * means["clean_only"], distances
    assert means["clean_only"] < means["everything_as_clean"]
    assert np.mean(copies["clean_only"]) < np.mean(copies["mix"]) < np.mean(copies["clean100"])
