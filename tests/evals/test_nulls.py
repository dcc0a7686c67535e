"""No metric pays a model that knows nothing: nulls of every kind of task, at chance or refused.

Chance is worked out by hand from the data that the test makes; the interval is the score's own
resamples, or where all resamples are alike the binomial one around chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals.images.generation import TrainingSet
from evals.images.synthetic import write_synthetic_images
from evals.kinds import kind_of, read_data
from evals.models import ModelError
from evals.nulls import IMAGE_GENERATOR_NULLS, IMAGE_NULLS, TEXT_NULLS, NullModel, null_model
from evals.run import score_task
from evals.suite import load_suite
from evals.tasks import EvalError, Task, load_task
from tests.evals.helpers import make_task, strokes, write_rows

N = 400
WORDS = ("river", "stone", "lamp", "teacher", "winter", "music", "market", "engine", "garden")


def words(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(WORDS, count))


def choices(rng: np.random.Generator, gold: int) -> dict[str, object]:
    """Four options of different lengths; the right one is the longest one time in four."""
    lengths = rng.permutation([2, 3, 4, 5])
    options = [f"{words(rng, int(n))} {k}" for k, n in enumerate(lengths)]
    return {"query": words(rng, 8), "choices": options, "gold": gold}


def text_task(kind: str, folder: Path, gold: Sequence[int]) -> Task:
    rng = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for row in range(N):
        if kind == "multiple_choice":
            rows.append(choices(rng, gold[row]))
        elif kind == "schema":
            contexts = [f"{words(rng, 6)} {k}" for k in range(2)]
            made = {"context_options": contexts, "continuation": words(rng, 4)}
            rows.append(made | {"gold": gold[row] % 2})
        elif kind == "language_modeling":
            rows.append({"context": words(rng, 8), "continuation": words(rng, 2)})
        elif kind == "generation":
            rows.append({"context": words(rng, 8), "answer": str(row)})
        elif kind == "perplexity":
            rows.append({"text": words(rng, 30)})
        else:
            rows.append({"ids": [int(item) for item in rng.integers(1, 257, 20)]})
    write_rows(folder / "t.jsonl", rows)
    return make_task(kind=kind)


def ask(task: Task, folder: Path, model: NullModel) -> tuple[float, float]:
    """The score and its standard error."""
    data = read_data(task, folder)
    answer = kind_of(task).answer(task, data, range(data.num_rows), model, window=512)
    log = answer[0] if isinstance(answer, tuple) else answer
    score, draws = score_task(task, log)
    return score.value, float(draws.std(ddof=1))


def reach(chance: float, number: int, error: float) -> float:
    """Four standard errors: one false alarm in about 15,000 tries."""
    return 4 * max(error, math.sqrt(chance * (1 - chance) / number)) + 1e-9


FIRST = [0] * N  # the right option is always the first: what ties must not pay
SPREAD = [row % 4 for row in range(N)]


@pytest.mark.parametrize("null", TEXT_NULLS)
@pytest.mark.parametrize(
    ("kind", "chance"),
    [("multiple_choice", 1 / 4), ("schema", 1 / 2), ("language_modeling", 0), ("generation", 0)],
)
def test_a_null_of_text_earns_what_guessing_earns(
    null: str, kind: str, chance: float, tmp_path: Path
) -> None:
    """Right options are spread over the places; `first_option` on FIRST is the next test."""
    task = text_task(kind, tmp_path, SPREAD)
    if null in ("nan", "negative") and kind != "generation":
        with pytest.raises(ModelError, match=r"not a number|below|above 1"):
            ask(task, tmp_path, NullModel(null))
        return
    value, error = ask(task, tmp_path, NullModel(null))
    assert value <= chance + reach(chance, N, error)
    if kind in ("multiple_choice", "schema"):
        assert value >= chance - reach(chance, N, error)


@pytest.mark.parametrize("null", ["uniform", "zeros", "context_blind", "random"])
@pytest.mark.parametrize("kind", ["multiple_choice", "schema"])
def test_ties_do_not_pay_where_the_first_option_is_always_right(
    null: str, kind: str, tmp_path: Path
) -> None:
    task = text_task(kind, tmp_path, FIRST)
    chance = 1 / 4 if kind == "multiple_choice" else 1 / 2
    value, error = ask(task, tmp_path, NullModel(null))
    assert abs(value - chance) <= reach(chance, N, error)


@pytest.mark.parametrize("kind", ["perplexity", "token_loss"])
def test_losses_of_nulls_are_those_of_guessing_or_refused(kind: str, tmp_path: Path) -> None:
    """Per byte of the file's own text; `zeros` is refused by the check of probabilities."""
    task = text_task(kind, tmp_path, SPREAD).model_copy(update={"higher_is_better": False})
    uniform, _ = ask(task, tmp_path, NullModel("uniform"))
    bits = math.log2(257)
    assert uniform == pytest.approx(bits if kind == "perplexity" else math.log(257), rel=1e-6)
    for null in ("random", "context_blind"):
        value, error = ask(task, tmp_path, NullModel(null))
        assert value >= uniform - 4 * error
    for null in ("nan", "negative"):
        with pytest.raises(ModelError, match="row 0: the model gives a loss"):
            ask(task, tmp_path, NullModel(null))


# ---- images


def chance_of(task: Task, folder: Path) -> tuple[float, int]:
    """What the best answer without looking scores, and on how many questions."""
    data = read_data(task, folder)
    gold = getattr(data, "gold", np.empty(0))
    if task.kind == "image_retrieval":
        return 1 / len(data.keys), len(data.keys)  # type: ignore[attr-defined]
    if task.kind == "image_association":
        shares = [
            sum(instance.associated) / len(instance.associated) for instance in data.instances
        ]  # type: ignore[attr-defined]
        # Of n candidates k are right: k are chosen, h = k k / n right on average, of 2 k - h.
        return max(share / (2 - share) for share in shares), len(shares)
    counts = np.bincount(gold)
    best = counts.max() / counts.sum()
    if task.metric == "mean_per_class_recall":
        return 1 / int((counts > 0).sum()), len(gold)
    return float(best), len(gold)


IMAGE_TASKS = (
    "cifar10",
    "vtab_dtd",
    "vtab_caltech101",
    "flickr_1k",
    "winogavil",
    "camelyon17",
    "iwildcam",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    tasks = [load_task(name) for name in (*IMAGE_TASKS, "fairface", "geode", "dollar_street")]
    write_synthetic_images(tasks, folder, seed=3, images=120)
    return folder


@pytest.mark.parametrize("null", IMAGE_NULLS)
@pytest.mark.parametrize("name", IMAGE_TASKS)
def test_a_null_of_images_earns_no_more_than_guessing(null: str, name: str, images: Path) -> None:
    task = load_task(name)
    if null == "nan":
        with pytest.raises(ModelError, match="no numbers"):
            ask(task, str(images), NullModel(null))  # type: ignore[arg-type]
        return
    chance, number = chance_of(task, str(images))  # type: ignore[arg-type]
    value, _ = ask(task, str(images), NullModel(null))  # type: ignore[arg-type]
    assert value <= chance + reach(chance, number, 0.0)
    if null in ("constant", "zeros"):
        assert value <= chance / 2  # nothing is decided, so nothing is paid


@pytest.mark.parametrize("name", ["fairface", "geode", "dollar_street"])
@pytest.mark.parametrize("null", ["constant", "zeros"])
def test_every_figure_of_groups_is_nought_when_nothing_is_decided(
    name: str, null: str, images: Path
) -> None:
    task = load_task(name)
    data = read_data(task, str(images))
    log, _ = kind_of(task).answer(task, data, range(data.num_rows), NullModel(null), window=1)
    metrics = kind_of(task).metrics(task, log)  # type: ignore[attr-defined]
    accuracies = {k: v for k, v in metrics.items() if k.startswith("acc") and v is not None}
    assert accuracies
    assert set(accuracies.values()) == {0.0}


def test_a_null_has_a_name_that_is_known() -> None:
    assert null_model("null:uniform").settings == {"null": "uniform", "precision": "fp32"}
    with pytest.raises(EvalError, match="there is no null model 'psychic'"):
        null_model("null:psychic")


# ---- image generators

REFUSED = {
    "image_memorisation": ("constant", "random", "identity", "nan"),  # they have no training images
    "image_sampling": ("constant", "nan"),
    "image_clip": ("constant", "nan"),
    "image_generation": ("nan",),
    "image_restoration": ("nan",),
}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generators")
    layers = {"weight0": np.eye(64, 8, dtype=np.float32), "bias0": np.ones(8, np.float32)}
    np.savez(folder / "digits_heldout.npz", images=strokes(1, 128), **layers)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("null", IMAGE_GENERATOR_NULLS)
@pytest.mark.parametrize("name", load_suite("ambient/tiny").tasks)
def test_a_null_generator_earns_no_more_than_guessing(null: str, name: str, held_out: Path) -> None:
    """1 of the ratios is what no model scores; a law's own images are closer than any null's."""
    task = load_task(name)
    if null in REFUSED[task.kind]:
        with pytest.raises(ModelError):
            ask(task, held_out, NullModel(null))
        return
    value, _ = ask(task, held_out, NullModel(null))
    if task.kind in ("image_restoration", "image_clip"):
        assert value > 0.9
    else:
        law = TrainingSet(strokes(2, 64))
        assert value > 3 * ask(task, held_out, law)[0]  # type: ignore[arg-type]
