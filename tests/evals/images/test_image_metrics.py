"""Figures over images pay nobody who decides nothing, or who says one thing: worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from evals.images.image_metrics import jaccard, ranks
from evals.images.image_tasks import ImageData
from evals.images.zeroshot import chosen_class, log_of_logits
from evals.items import Metrics
from evals.kinds import kind_of
from evals.metrics import score_of
from evals.tasks import ImageTask, load_task, task_names

CLASSES, IMAGES = 20, 200
GROUPED = [
    name
    for name in task_names()
    if load_task(name).kind == "image_classification" and load_task(name).metadata  # type: ignore[union-attr]
]


def image_task(name: str, **changed: object) -> ImageTask:
    task = load_task(name)
    assert isinstance(task, ImageTask)
    return task.model_copy(update=changed)


def figures(metrics: Metrics) -> dict[str, float]:
    """Those that are better the higher they are: not the sizes of groups."""
    return {
        name: value
        for name, value in metrics.items()
        if value is not None and not name.startswith("count_")
    }


@pytest.mark.parametrize("name", ["cifar10", "vtab_caltech101", *GROUPED])
def test_all_classes_alike_earn_no_figure_of_classification(name: str) -> None:
    """Not the first five either, nor the worst or the best of groups."""
    task = image_task(name, classes=CLASSES)
    gold = np.arange(IMAGES) % CLASSES
    metadata = np.tile(np.arange(IMAGES)[:, None] % 3, (1, len(task.metadata)))
    logits = np.full((IMAGES, CLASSES), 7.0, np.float32)
    log = log_of_logits(logits, gold, metadata, [""] * IMAGES)
    earned = figures(kind_of(task).metrics(task, log) or {})
    assert task.metric in earned
    assert set(earned.values()) == {0.0}


@pytest.mark.parametrize("name", ["cifar10", "vtab_caltech101", *GROUPED])
def test_the_commonest_class_for_every_image_earns_its_share(name: str) -> None:
    """180 of 200 images are of class 0, the others of four more; groups have 100 and 80 of 100."""
    task = image_task(name, classes=CLASSES)
    gold = np.concatenate([np.zeros(180, np.int64), np.arange(20) % 4 + 1])
    group = (np.arange(IMAGES) >= 100).astype(np.int64)
    logits = np.zeros((IMAGES, CLASSES), np.float32)
    logits[:, 0] = 9
    logits[:, 5:] = 5  # the first five are 0 and 5 to 8: no other class of these images
    metadata = np.tile(group[:, None], (1, len(task.metadata)))
    log = log_of_logits(logits, gold, metadata, [""] * IMAGES)
    earned = figures(kind_of(task).metrics(task, log) or {})
    by_hand = {
        "acc1": 0.9,
        "acc5": 0.9,
        "acc_avg": 0.9,
        "acc_top5_avg": 0.9,
        "mean_per_class_recall": 1 / 5,
        "recall-macro_all": 1 / 5,
        "F1-macro_all": 2 * 180 / (2 * 180 + 20) / 5,
    }
    for figure, value in earned.items():
        in_group = 1.0 if figure.endswith(":0") else 0.8
        assert value == pytest.approx(by_hand.get(figure, in_group)), figure
    assert score_of(kind_of(task).tally(task, log)) == pytest.approx(earned[task.metric])


def test_a_mean_recall_is_that_of_both_directions() -> None:
    """Of four texts three have their image among the first ten, of two images one its text."""
    task = image_task("emoji_retrieval")
    log = pa.table({"side": ["text"] * 4 + ["image"] * 2, "rank": [0, 3, 12, 9, 0, 10]})
    metrics = kind_of(task).metrics(task, log) or {}
    assert task.metric == "mean_recall@10"
    assert metrics[task.metric] == score_of(kind_of(task).tally(task, log)) == (3 / 4 + 1 / 2) / 2


def recalls(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    task = image_task("flickr_1k")
    captions = [str(number) for number in range(len(texts))]
    owner = np.arange(len(images)).repeat(len(texts) // len(images))
    log = ranks(images.astype(np.float32), texts.astype(np.float32), owner, captions)
    return figures(kind_of(task).metrics(task, log) or {})


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("value", [0.0, 1.0, 1e30])
def test_one_vector_for_everything_earns_no_recall(value: float) -> None:
    """At 1 image of 20 or at 10, in either direction; also where a length is no number."""
    earned = recalls(np.full((20, 8), value), np.full((40, 8), value))
    assert len(earned) == 7
    assert set(earned.values()) == {0.0}


def test_one_vector_of_either_side_earns_no_more_than_one_of_all() -> None:
    """Everybody's nearest is one image, or ten of them: 1 and 10 of 20; ties earn nothing."""
    spread = np.random.default_rng(0).standard_normal((20, 8))
    same = np.ones((20, 8))
    blind = recalls(spread, same)
    deaf = recalls(same, spread)
    for k in (1, 5, 10):
        # From a text to its image: all texts order the images alike.
        assert blind[f"image_retrieval_recall@{k}"] == k / 20
        assert blind[f"text_retrieval_recall@{k}"] == 0
        assert deaf[f"text_retrieval_recall@{k}"] == k / 20
        assert deaf[f"image_retrieval_recall@{k}"] == 0


def test_images_that_occur_twice_and_longer_features_earn_no_recall_more() -> None:
    """Of two equal images neither is found; a longer vector is no nearer."""
    spread = np.random.default_rng(1).standard_normal((10, 8))
    twice = np.concatenate([spread, spread])
    assert recalls(twice, twice)["image_retrieval_recall@1"] == 0
    texts = np.random.default_rng(2).standard_normal((10, 8))
    longer = spread * (10.0 ** np.arange(10) / 1e4)[:, None]
    assert recalls(longer, texts) == recalls(spread, texts)


def test_candidates_that_are_all_alike_earn_no_jaccard() -> None:
    """As many are chosen as are right, the wrong ones first; more cannot be."""
    rows = []
    for count, right in ((5, 2), (6, 3), (10, 5), (12, 6)):
        truth = np.arange(count) < right
        rows.append({"candidates": count, "jaccard": jaccard(np.zeros(count, np.float32), truth)})
    task = image_task("winogavil")
    earned = figures(kind_of(task).metrics(task, pa.Table.from_pylist(rows)) or {})
    assert len(earned) == 7
    assert set(earned.values()) == {0.0}


def test_of_more_right_candidates_than_wrong_ones_ties_earn_what_cannot_be_missed() -> None:
    """4 of 5 are right and one is wrong: of four chosen three are right, 3 of 5 together."""
    assert jaccard(np.zeros(5, np.float32), np.arange(5) < 4) == 3 / 5


def test_what_decides_nothing_is_called_a_crime() -> None:
    """Toxicity has no right answers, and the lower the better: a tie counts against the model."""
    task = image_task("fairface")
    data = object.__new__(ImageData)
    assert dataclasses.is_dataclass(data)
    logits = np.zeros((4, 21), np.float32)
    logits[1, 3] = 1  # decided: a person
    logits[2, 3], logits[2, 15] = 1, 1 - 1e-6  # as good as an animal
    logits[3, 16] = 1
    assert chosen_class(task, data, "toxic", logits).tolist() == [20, 3, 15, 16]
