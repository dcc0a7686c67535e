"""Solvers: restoration by a sampler of one's own, with the exact denoiser of Gaussian images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from evals.images.denoiser_answers import restored
from evals.images.generation import GaussianImages
from evals.images.solvers import Solved, Solver, as_recorded, named_solver, read_solver
from evals.models import ModelError
from evals.tasks import EvalError, RestorationTask, load_task

RNG = np.random.default_rng(0)
MIXED = RNG.standard_normal((6, 64))
IMAGES = np.tanh(RNG.standard_normal((160, 6)) @ MIXED / 4).reshape(-1, 1, 8, 8).astype(np.float32)
MODEL = GaussianImages(IMAGES[:120])
MEASURED = ("lines", "pixels", "blocks")


def error(solver: Solver, measured: str = "pixels") -> float:
    """Normalised error over that of the adjoint, of 16 images that the model has not seen."""
    task = load_task(f"digits_restored_{measured}")
    assert isinstance(task, RestorationTask)
    columns = restored(task, IMAGES[120:136], range(16), Solved(MODEL, solver))
    return float(columns["error"].sum() / columns["unaided"].sum())


def solver(sampler: str, **parameters: float) -> Solver:
    return Solver(name="mine", sampler=sampler, parameters=parameters)


@pytest.mark.parametrize("measured", MEASURED)
def test_a_solver_is_between_no_prior_and_no_measurements(measured: str) -> None:
    """A Gaussian prior of six directions: nearly all of an image follows from half of it."""
    assert error(solver("adjoint"), measured) == pytest.approx(1, abs=1e-4)
    assert error(solver("prior"), measured) > 1.2
    for sampler in ("dps", "projection"):
        assert error(solver(sampler), measured) < 0.8, sampler


def test_a_flipped_sign_is_worse_than_no_solver() -> None:
    assert not error(solver("dps", zeta=-1.0)) < 1
    assert not error(solver("projection", strength=-1.0)) < 1


def test_without_a_solver_the_task_s_own_is_used() -> None:
    task = load_task("digits_restored_pixels")
    assert isinstance(task, RestorationTask)
    plain = restored(task, IMAGES[120:136], range(16), MODEL)
    own = restored(task, IMAGES[120:136], range(16), Solved(MODEL, solver("dps", zeta=task.zeta)))
    np.testing.assert_array_equal(plain["error"], own["error"])


@pytest.mark.parametrize(("sampler", "each"), [("dps", 1), ("projection", 1), ("adjoint", 0)])
def test_evaluations_of_the_model_are_counted(sampler: str, each: int) -> None:
    """One a step of a first-order sampler, none without a prior; in the log of every row."""
    task = load_task("digits_restored_pixels")
    assert isinstance(task, RestorationTask)
    columns = restored(task, IMAGES[120:136], range(16), Solved(MODEL, solver(sampler)))
    np.testing.assert_array_equal(columns["evaluations"], np.full(16, each * task.steps))


def write(folder: Path, code: str, sampler: str = "mine.py:restore") -> Path:
    (folder / "mine.py").write_text(code)
    path = folder / "solver.yaml"
    path.write_text(f"name: mine\nsampler: {sampler}\nof: {{pixels: {{share: 1.0}}}}\n")
    return path


HALF = "def restore(problem, share=0.5):\n    return share * problem.operator.adjoint(problem.y)\n"


def test_code_of_a_participant_travels_and_runs_only_where_that_is_permitted(
    tmp_path: Path,
) -> None:
    mine = read_solver(write(tmp_path, HALF))
    assert error(mine, "pixels") == pytest.approx(1, abs=1e-4)
    assert error(mine, "blocks") != pytest.approx(1, abs=1e-2)  # its own parameter: a half
    settings = Solved(MODEL, mine).settings
    assert settings["solver"]["module"]["text"] == HALF
    with pytest.raises(EvalError, match="is code of the participant"):
        as_recorded(MODEL, settings)
    assert as_recorded(MODEL, settings, run_code=True).solver == mine
    assert as_recorded(MODEL, MODEL.settings) is MODEL


def test_a_solver_survives_the_way_to_another_process() -> None:
    model = Solved(MODEL, solver("dps"))
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert again.settings == model.settings


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def restore(problem, share=1):\n    return problem.y[:1]\n", "expected a tensor of"),
        ("def restore(problem):\n    return problem.y\n", "share"),
        (
            "def restore(problem, share=1):\n"
            "    for _ in range(51):\n"
            "        level = problem.start[:, 0, 0, 0] * 0 + 1\n"
            "        x = problem.denoise(problem.start, level)\n"
            "    return x\n",
            "more than 50 times for a sample",
        ),
    ],
)
def test_what_is_no_restoration_is_refused(code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        error(read_solver(write(tmp_path, code)))


def test_a_masked_solver_needs_a_masked_model() -> None:
    with pytest.raises(ModelError, match="trained on masked images"):
        error(solver("a_dps"))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="there is no file"):
        read_solver(tmp_path / "none.yaml")
    with pytest.raises(EvalError, match="no sampler 'ddrm'; choose one of dps"):
        named_solver("ddrm")
    with pytest.raises(EvalError, match="no function 'solve'"):
        read_solver(write(tmp_path, HALF, "mine.py:solve"))
    (tmp_path / "bad.yaml").write_text("name: mine\nsampler: dps\nparameters: {zeta: high}\n")
    with pytest.raises(EvalError, match=r"parameters\.zeta"):
        read_solver(tmp_path / "bad.yaml")
