"""Training: resumes with the same weights, computes in pieces, draws levels fairly."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
import yaml

from ambient.pool.pool import Mix
from ambient.recipe import Network, Recipe, load_recipe
from ambient.training import train as training
from ambient.training.data import Images
from ambient.training.model import build, num_params
from pipelines.errors import CheckpointError, TrainingError
from pipelines.records import PackedRecord, RecordError
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store
from tests.ambient.packing.test_pack import packed

ROOT = Path(__file__).parents[3]
HALF_NOISY = Mix(clean_share=0.3, kind="gaussian", level=0.5)


def small(**changes: object) -> Recipe:
    base = load_recipe("tiny").model_dump()
    base |= {
        "images": 640,
        "global_batch_size": 32,
        "network": {"kind": "mlp", "width": 16, "layers": 1},
        "checkpoint_steps": 7,
        "log_every": 5,
        **changes,
    }
    return Recipe.model_validate(base)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed")
    packed(path, [], HALF_NOISY)
    return path / "packed"


def images(folder: Path) -> Images:
    store = open_store(str(folder))
    record = read_chain(store)[-1]
    assert isinstance(record, PackedRecord)
    return Images(store, record)


def test_a_run_leaves_its_record_metrics_and_weights(folder: Path, tmp_path: Path) -> None:
    record = training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path))
    assert record.counts["steps"] == 20
    assert record.results is not None
    assert record.results["images_seen"] == 640
    names = {path.name for path in tmp_path.iterdir()}
    assert {"model.safetensors", "config.json", "metrics.jsonl", "loss.svg", "record.json"} <= names
    assert "checkpoint.pt" not in names
    again = training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path))
    assert again.id == record.id
    with pytest.raises(RecordError, match="other work"):
        training.train(str(folder), recipe=small(), seed=2, out=str(tmp_path))


def test_a_killed_run_resumes_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path / "a"))
    real = training._step

    def killed(run: training.Run, *arguments: object, **options: object) -> tuple[float, float]:
        if run.step == 11:
            raise KeyboardInterrupt
        return real(run, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path / "b"))
    monkeypatch.setattr(training, "_step", real)
    resumed = training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path / "b"))
    assert resumed.id == whole.id
    assert resumed.made_by.figures["resumed"] == 1


def test_pieces_change_only_the_rounding(folder: Path, tmp_path: Path) -> None:
    losses = [
        training.train(
            str(folder), recipe=small(), seed=1, out=str(tmp_path / str(most)), max_batch=most
        ).results["loss"]  # type: ignore[index]
        for most in (None, 8)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="is damaged"):
        training.train(str(folder), recipe=small(), seed=1, out=str(tmp_path))


def test_a_changed_shard_is_named(tmp_path: Path) -> None:
    packed(tmp_path, [], HALF_NOISY)
    path = tmp_path / "packed" / "images-00000.npy"
    path.write_bytes(path.read_bytes()[:-2] + b"ab")
    with pytest.raises(TrainingError, match="pack again"):
        training.train(
            str(tmp_path / "packed"), recipe=small(), seed=1, out=str(tmp_path / "model")
        )


def test_images_are_drawn_by_weight_and_levels_above_their_own(folder: Path) -> None:
    """The levels of one kind of image have the law of training, restricted to where it teaches."""
    data, recipe = images(folder), small(global_batch_size=20_000, images=20_000)
    rows, sigma, _ = data.batch(recipe, seed=1, step=0, rank=0, world=1, device=torch.device("cpu"))
    noisy = rows.level > 0
    share = float((data.level > 0).mean())
    assert 0 < share < 1
    assert float(noisy.float().mean()) == pytest.approx(share, abs=0.02)
    clean = sigma[~noisy].log()
    assert float(clean.mean()) == pytest.approx(-1.2, abs=0.05)
    assert float(clean.std()) == pytest.approx(1.2, abs=0.05)
    assert bool((sigma > rows.level).all())
    standard = NormalDist(-1.2, 1.2)
    above = 1 - standard.cdf(math.log(0.5))
    for level in (1.0, 2.0):
        expected = (1 - standard.cdf(math.log(level))) / above
        assert float((sigma[noisy] > level).float().mean()) == pytest.approx(expected, abs=0.02)


def test_batches_differ_between_steps_and_processes(folder: Path) -> None:
    data, recipe, cpu = images(folder), small(), torch.device("cpu")
    first = data.batch(recipe, seed=1, step=0, rank=0, world=2, device=cpu)
    assert len(first[0]) == 16
    for other in ({"step": 1, "rank": 0}, {"step": 0, "rank": 1}):
        rows, _, _ = data.batch(recipe, seed=1, world=2, device=cpu, **other)
        assert not torch.equal(rows.images, first[0].images)


def test_a_masked_pool_trains_a_denoiser_that_sees_the_mask(tmp_path: Path) -> None:
    packed(tmp_path, [], Mix(clean_share=0.2, kind="mask", level=0.5))
    data = images(tmp_path / "packed")
    assert data.masked
    masks = data.masks(np.arange(len(data)))
    pixels = data.rows(np.arange(len(data)))
    assert bool((pixels[masks == 0] == 0).all())
    record = training.train(
        str(tmp_path / "packed"), recipe=small(), seed=1, out=str(tmp_path / "model")
    )
    assert record.results is not None
    assert np.isfinite(record.results["loss"])


def test_the_u_net_of_diffusers_has_the_recipe_s_shape() -> None:
    network = Network(kind="unet", width=8, layers=1, multipliers=(1, 2), attention=(4,))
    recipe = small(network=network.model_dump())
    model = build(recipe, masked=True)
    x = torch.randn(2, 1, 8, 8)
    assert model(x, torch.tensor([0.1, 5.0]), torch.ones_like(x)).shape == x.shape
    assert num_params(model) > 1000


def test_two_processes_train_one_model(folder: Path, tmp_path: Path) -> None:
    """Each computes half of every batch; both return the same record."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(yaml.safe_dump(small().model_dump(mode="json")))
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from ambient.recipe import load_recipe\n"
        "from ambient.training.train import train\n"
        "record = train(sys.argv[1], recipe=load_recipe(sys.argv[2]), seed=1, out=sys.argv[3])\n"
        "Path(sys.argv[4], os.environ['RANK'] + '.id').write_text(record.id)\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2"]
    arguments = [str(script), str(folder), str(recipe), str(tmp_path / "model"), str(tmp_path)]
    run = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    # Files, not standard output: lines of two processes may end up inside each other.
    ids = [(tmp_path / f"{rank}.id").read_text() for rank in range(2)]
    assert ids[0]
    assert len(set(ids)) == 1
