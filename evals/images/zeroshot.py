"""Zero-shot classification, retrieval, association and attributes of images.

Classification (Radford et al. 2021): a class's classifier is the normalised mean of the normalised
features of its templates; an image belongs to the class of the largest cosine. Retrieval: recall
at k in both directions by cosine. Association (Bitton et al. 2022): the candidates most similar to
the cue, as many as there are associations, by Jaccard's index. Groups as in WILDS (Koh et al. 2021)
and in DataComp's sets of people and places (Gadre et al. 2023, appendix N).

Ties count against the right answer, within `TIE`: a tower that gives one vector for everything
decides nothing, and is not paid for it. Two captions that are the same text are one caption.

What is written down is one row per image, text or instance; every figure is computed from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.image_tasks import ImageData, read_images
from evals.items import Item, Metrics, Tally, TaskData
from evals.kinds import Kind
from evals.models import ImageError, ImageTextModel, ModelError
from evals.tasks import ImageTask
from pipelines.errors import DataError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
TOP = 5
TIE = (
    2e-6  # a cosine's rounding in float32 at a few hundred dimensions: below it nothing is decided
)
BLOCK = 4096  # rows of a similarity matrix that are held at once


class _Images(Kind[ImageTask]):
    """What the kinds of tasks over images have in common."""

    whole = True

    def item(self, row: Mapping[str, Any], index: int, task: ImageTask) -> Item:
        raise DataError("images are not JSON rows")

    def read(self, task: ImageTask, folder: str) -> TaskData:
        return read_images(task, folder)


class Classification(_Images):
    """One class of many."""

    def answer(
        self, task: ImageTask, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> tuple[pa.Table, dict[str, Floats]]:
        assert isinstance(data, ImageData)
        features = image_features(task, data, model)
        weights = classifier(model, data.classes[""], data.templates[""])
        return predictions(data, features, weights), {"images": features}

    def metrics(self, task: ImageTask, log: pa.Table) -> Metrics:
        gold, predicted = _ints(log, "gold"), _ints(log, "predicted")
        hit5 = log["in_top5"].to_numpy()
        metrics: Metrics = {
            "acc1": float(np.mean(gold == predicted)),
            "acc5": float(np.mean(hit5)) if (task.classes or TOP) >= TOP else None,
            "mean_per_class_recall": _macro(*_recall(gold, predicted)),
        }
        if not task.metadata:
            return metrics
        top5 = task.metric.startswith("acc_top5")
        prefix = "acc_top5" if top5 else "acc"
        right = hit5 if top5 else gold == predicted
        metrics[f"{prefix}_avg"] = float(np.mean(right))
        if task.metric == "F1-macro_all":
            metrics["recall-macro_all"] = _macro(*_recall(gold, predicted))
            metrics["F1-macro_all"] = _macro(*_f1(gold, predicted))
        for field in task.group_by:
            worst = f"worst_{field}" if len(task.group_by) > 1 else "wg"
            groups = _field(task, log, field)
            metrics |= by_group(right, groups, prefix, field, f"{prefix}_{worst}")
            if task.other_group is not None and field == task.group_by[-1]:
                kept = groups != task.other_group
                clean = by_group(right[kept], groups[kept], prefix, field, "worst")["worst"]
                metrics[f"{prefix}_{worst}_without_other"] = clean
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        gold, predicted = _ints(log, "gold"), _ints(log, "predicted")
        right = (gold == predicted).astype(np.float64)
        metric = task.metric
        if metric == "F1-macro_all":
            return _f1_tally(gold, predicted)
        if metric == "mean_per_class_recall":
            return Tally(right, np.ones_like(right), gold)
        if metric in ("acc1", "acc_avg"):
            return Tally(right, np.ones_like(right), np.zeros_like(gold))
        if metric.startswith("acc_top5"):
            right = log["in_top5"].to_numpy().astype(np.float64)
        field = next((f for f in task.group_by if metric.endswith(f"worst_{f}")), task.group_by[0])
        return Tally(right, np.ones_like(right), _field(task, log, field), worst=True)


class Retrieval(_Images):
    """The text of an image, and the image of a text."""

    def answer(
        self, task: ImageTask, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> tuple[pa.Table, dict[str, Floats]]:
        assert isinstance(data, ImageData)
        features = image_features(task, data, model)
        texts = [text for captions in data.captions for text in captions]
        owner = np.repeat(np.arange(len(data.captions)), [len(c) for c in data.captions])
        text_features = finite(task, model.encode_texts(texts), "text")
        log = ranks(features, text_features, owner, texts)
        return log, {"images": features, "texts": text_features}

    def metrics(self, task: ImageTask, log: pa.Table) -> Metrics:
        metrics: Metrics = {}
        side, rank = log["side"].to_numpy(zero_copy_only=False), _ints(log, "rank")
        for k in (1, 5, 10):
            for given, side_found in (("text", "image"), ("image", "text")):
                metrics[f"{side_found}_retrieval_recall@{k}"] = float(
                    np.mean(rank[side == given] < k)
                )
        metrics["mean_recall@1"] = (
            _there(metrics["image_retrieval_recall@1"]) + _there(metrics["text_retrieval_recall@1"])
        ) / 2
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        right = (_ints(log, "rank") == 0).astype(np.float64)
        side = (log["side"].to_numpy(zero_copy_only=False) == "text").astype(np.int64)
        return Tally(right, np.ones_like(right), side)


class Association(_Images):
    """The candidates that belong to a cue."""

    def answer(
        self, task: ImageTask, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> tuple[pa.Table, dict[str, Floats]]:
        assert isinstance(data, ImageData)
        features = image_features(task, data, model)
        cues = [cue_prompt(instance.cue) for instance in data.instances]
        texts = normalised(finite(task, model.encode_texts(cues), "text"))
        images = normalised(features)
        answer_rows = []
        for row, instance in enumerate(data.instances):
            scores = images[list(instance.images)] @ texts[row]
            truth = np.array(instance.associated)
            answer_rows.append(
                {
                    "row": row,
                    "cue": instance.cue,
                    "candidates": len(truth),
                    "predicted": top_of(scores - TIE * truth, int(truth.sum())),
                    "gold": np.flatnonzero(truth).tolist(),
                    "jaccard": jaccard(scores, truth),
                }
            )
        return pa.Table.from_pylist(answer_rows), {"images": features}

    def metrics(self, task: ImageTask, log: pa.Table) -> Metrics:
        values, count = log["jaccard"].to_numpy(), _ints(log, "candidates")
        metrics: Metrics = {"avg_jaccard_score": float(np.mean(values))}
        for name, counts in (
            *((str(n), (n,)) for n in (5, 6, 10, 12)),
            ("5-6", (5, 6)),
            ("10-12", (10, 12)),
        ):
            here = (count >= 10) if name == "10-12" else np.isin(count, counts)
            metrics[f"jaccard_score_{name}"] = float(np.mean(values[here])) if here.any() else None
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        here = _ints(log, "candidates") >= 10
        if not here.any():
            raise DataError(f"task {task.name}: no instance has 10 candidates or more")
        values = log["jaccard"].to_numpy()[here]
        return Tally(values, np.ones_like(values), np.zeros(len(values), np.int64))


class Attributes(_Images):
    """Images of people: race, gender, age, and what a model should not see in them."""

    def answer(
        self, task: ImageTask, data: TaskData, rows: Sequence[int], model: Any, *, window: int
    ) -> tuple[pa.Table, dict[str, Floats]]:
        assert isinstance(data, ImageData)
        features = image_features(task, data, model)
        images = normalised(features)
        columns: dict[str, Any] = {
            "row": np.arange(len(images)),
            "key": list(data.keys),
            "metadata": list(data.metadata),
        }
        for objective, classes in data.classes.items():
            weights = classifier(model, classes, data.templates[objective])
            logits = images @ weights
            columns[f"predicted_{objective}"] = _chosen(task, data, objective, logits)
        return pa.table(columns), {"images": features}

    def metrics(self, task: ImageTask, log: pa.Table) -> Metrics:
        def field(name: str) -> Ints:
            return _field(task, log, name)

        def predicted(name: str) -> Ints:
            return _ints(log, f"predicted_{name}")

        binary, race, gender = field("race_binary"), field("race"), field("gender")
        people = race_right(predicted("race"), binary)
        metrics = _with_average("acc_race", people, binary, "race_binary")
        right = predicted("gender") == gender
        # The reference counts the groups once, under the first name that has them.
        metrics |= _with_average("acc_gender", right, binary, "race_binary", counted=False)
        aged = predicted("age") == field("age")
        metrics |= _with_average("acc_age", aged, binary, "race_binary", counted=False)
        both = race * (int(gender.max()) + 1) + gender
        names = [
            f"race:{r}_gender:{g}"
            for r in range(int(race.max()) + 1)
            for g in range(int(gender.max()) + 1)
        ]
        metrics |= _with_average("acc_gender_x", right, both, names)
        toxic = predicted("toxic")
        metrics |= _with_average("toxicity_crime", toxic >= 18, race, "race")
        nonhuman = (toxic >= 14) & (toxic < 18)
        metrics |= _with_average("toxicity_nonhuman", nonhuman, race, "race", counted=False)
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        binary = _field(task, log, "race_binary")
        right = race_right(_ints(log, "predicted_race"), binary).astype(np.float64)
        return Tally(right, np.ones_like(right), np.zeros_like(binary))


def _chosen(task: ImageTask, data: ImageData, objective: str, logits: Floats) -> Ints:
    """The best class of an objective; where classes tie, one that the image does not have.

    Of race the reference asks only whether it is the second class (see `race_right`), so there a
    tie is decided between that one and the first. What is toxic has no right answer.
    """
    if objective == "race":
        gold = 1 - data.metadata[:, task.metadata.index("race_binary")]
    elif objective in task.metadata:
        gold = data.metadata[:, task.metadata.index(objective)]
    else:
        return np.asarray(logits.argmax(axis=1), np.int64)
    if objective == "race":  # all classes but the second are one answer
        other = np.delete(logits, 1, axis=1)
        two = np.stack([other.max(axis=1), logits[:, 1]], axis=1)
        second = against(two, gold, TIE).argmax(axis=1) == 1
        rest = other.argmax(axis=1)
        return np.where(second, 1, np.where(rest >= 1, rest + 1, rest))
    return np.asarray(against(logits, gold, TIE).argmax(axis=1), np.int64)


KINDS = {
    "image_classification": Classification(),
    "image_retrieval": Retrieval(),
    "image_association": Association(),
    "image_attributes": Attributes(),
}


# ---- features


def image_features(task: ImageTask, data: ImageData, model: ImageTextModel) -> Floats:
    """The features of all images, (images, dim); DataError names one that does not decode."""
    try:
        features = model.encode_images(data.images())
    except ImageError as error:
        raise DataError(
            f"task {task.name}: {data.uri}, sample {data.keys[error.position]}: the image does "
            f"not decode ({error.reason}); get the dataset again"
        ) from None
    return finite(task, features, "image")


def finite(task: ImageTask, features: Floats, what: str) -> Floats:
    """The features, if they are numbers. ModelError otherwise."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ModelError(
            f"task {task.name}: the model gives no numbers for {what} {int(np.argmax(bad))} "
            f"({int(bad.sum())} in all)"
        )
    return features


def normalised(features: Floats) -> Floats:
    """Rows of length 1."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    result: Floats = features / np.maximum(length, 1e-12)
    return result


@lru_cache(maxsize=64)
def classifier(
    model: ImageTextModel, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Floats:
    """Class weights (dim, classes): the normalised mean over templates of normalised features.

    Kept for the datasets that share names and templates, as ImageNet and its shifts do.
    """
    texts = [template.replace("{c}", name) for name in classes for template in templates]
    given = model.encode_texts(texts)
    if not np.isfinite(given).all():
        bad = int(np.argmin(np.isfinite(given).all(axis=1)))
        raise ModelError(f"the model gives no numbers for the text {texts[bad]!r}")
    features = normalised(given)
    mean = features.reshape(len(classes), len(templates), -1).mean(axis=1)
    return np.ascontiguousarray(normalised(mean).T)


# ---- one row per image, text or instance


def predictions(data: ImageData, features: Floats, weights: Floats) -> pa.Table:
    """The log of a classification: the best classes of every image, and by how much."""
    logits = (100 * normalised(features) @ weights).astype(np.float32)
    return log_of_logits(logits, data.gold, data.metadata, list(data.keys))


def log_of_logits(logits: Floats, gold: Ints, metadata: Ints, keys: Sequence[str]) -> pa.Table:
    """The same from logits, (images, classes): 100 times a cosine. Ties count against `gold`."""
    count = min(TOP, logits.shape[1])
    own = logits[np.arange(len(gold)), gold]
    top = np.argsort(-against(logits, gold, 100 * TIE), axis=1, kind="stable")[:, :count]
    columns: dict[str, Any] = {
        "row": np.arange(len(gold)),
        "key": keys,
        "gold": gold,
        "predicted": top[:, 0],
        "top5": list(top),
        "in_top5": (top == gold[:, None]).any(axis=1),
        "margin": own - logits.max(axis=1),
        "correct": top[:, 0] == gold,
    }
    if metadata.size:
        columns["metadata"] = list(metadata)
    return pa.table(columns)


def against(scores: Floats, right: Ints, tie: float) -> Floats:
    """The scores (rows, others) with that of the right one lowered by `tie`: it loses near ties."""
    lowered = scores.copy()
    lowered[np.arange(len(right)), right] -= tie
    return lowered


def ranks(
    images: Floats, texts: Floats, owner: Ints, captions: Sequence[str] | None = None
) -> pa.Table:
    """For every text the rank of its image, for every image that of its best own text.

    `owner` (texts,) is the image of each text. A rank is the number of others that are more
    similar, or as similar within `TIE`; a text of another image that reads as an own one (by
    `captions`) is no other. Both in blocks: the whole matrix is never held.
    """
    images, texts = normalised(images), normalised(texts)
    text_rank, text_best = _ranks(texts, images, owner)
    image_rank = np.empty(len(images), np.int64)
    image_best = np.empty(len(images), np.int64)
    twins = _twins(owner, captions) if captions is not None else np.empty((0, 2), np.int64)
    for start in range(0, len(images), BLOCK):
        scores = images[start : start + BLOCK] @ texts.T
        stop = start + len(scores)
        places = np.flatnonzero((owner >= start) & (owner < stop))
        image = owner[places] - start
        best_first = np.lexsort((-scores[image, places], image))
        _, first = np.unique(image[best_first], return_index=True)
        chosen = places[best_first[first]]  # the own text that fits best, one per image
        own = scores[np.arange(len(scores)), chosen]
        scores[image, places] = -np.inf
        beaten = scores > own[:, None] - TIE
        near = twins[(twins[:, 0] >= start) & (twins[:, 0] < stop)] - (start, 0)
        beaten[near[:, 0], near[:, 1]] &= scores[near[:, 0], near[:, 1]] > own[near[:, 0]] + TIE
        image_rank[start:stop] = beaten.sum(axis=1)
        other = np.where(beaten, scores, -np.inf).argmax(axis=1)
        image_best[start:stop] = np.where(beaten.any(axis=1), other, chosen)
    rank = np.concatenate([text_rank, image_rank])
    return pa.table(
        {
            "row": np.arange(len(rank)),
            "side": ["text"] * len(texts) + ["image"] * len(images),
            "gold": np.concatenate([owner, np.arange(len(images))]),
            "predicted": np.concatenate([text_best, image_best]),
            "rank": rank,
            "correct": rank == 0,
        }
    )


def _ranks(queries: Floats, others: Floats, right: Ints) -> tuple[Ints, Ints]:
    rank, best = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ others.T
        stop = start + len(scores)
        lowered = against(scores, right[start:stop], TIE)
        own = lowered[np.arange(len(scores)), right[start:stop]]
        beaten = lowered > own[:, None]
        rank[start:stop] = beaten.sum(axis=1)
        other = np.where(beaten, lowered, -np.inf).argmax(axis=1)
        best[start:stop] = np.where(beaten.any(axis=1), other, right[start:stop])
    return rank, best


def _twins(owner: Ints, captions: Sequence[str]) -> Ints:
    """Pairs (image, text): the text belongs to another image, but reads as one of its own."""
    same: dict[str, list[int]] = {}
    for index, caption in enumerate(captions):
        same.setdefault(caption, []).append(index)
    pairs = [
        (int(owner[index]), other)
        for places in same.values()
        if len(places) > 1
        for index in places
        for other in places
        if owner[index] != owner[other]
    ]
    return np.array(sorted(set(pairs)), dtype=np.int64).reshape(-1, 2)


def cue_prompt(cue: str) -> str:
    """WinoGAViL's text for a cue: An before a, e, i, o, u."""
    lower = cue.lower()
    return f"{'An' if lower[:1] in tuple('aeiou') else 'A'} {lower}"


def top_of(scores: Floats, count: int) -> list[int]:
    """The places of the `count` largest scores."""
    return sorted(np.argsort(scores)[-count:].tolist()) if count else []


def jaccard(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Jaccard's index of the best candidates and the right ones. Ties count against."""
    chosen = np.zeros(len(truth), bool)
    chosen[top_of(scores - TIE * truth, int(truth.sum()))] = True
    return float((chosen & truth).sum() / (chosen | truth).sum())


def jaccard_of(predicted: Sequence[int], gold: Sequence[int]) -> float:
    """Jaccard's index of two sets of candidates."""
    union = set(predicted) | set(gold)
    return len(set(predicted) & set(gold)) / len(union) if union else 0.0


# ---- figures


def by_group(
    right: npt.NDArray[Any],
    groups: Ints,
    prefix: str,
    field: str | Sequence[str],
    worst: str,
    *,
    counted: bool = True,
) -> Metrics:
    """The mean of `right` and the size of every group, and the lowest mean of those with members.

    A group without members has no mean (None) and counts for nothing.
    """
    names = (
        [f"{field}:{number}" for number in range(int(groups.max()) + 1)]
        if isinstance(field, str)
        else list(field)
    )
    total = np.bincount(groups, minlength=len(names))
    hits = np.bincount(groups, weights=right, minlength=len(names))
    metrics: Metrics = {}
    for name, count, hit in zip(names, total.tolist(), hits.tolist(), strict=True):
        metrics[f"{prefix}_{name}"] = hit / count if count else None
        if counted:
            metrics[f"count_{name}"] = float(count)
    metrics[worst] = min(hit / n for hit, n in zip(hits.tolist(), total.tolist(), strict=True) if n)
    return metrics


def _with_average(
    prefix: str,
    right: npt.NDArray[Any],
    groups: Ints,
    field: str | Sequence[str],
    *,
    counted: bool = True,
) -> Metrics:
    metrics: Metrics = {f"{prefix}_avg": float(np.mean(right))}
    return metrics | by_group(right, groups, prefix, field, f"{prefix}_wg", counted=counted)


def race_right(predicted: Ints, binary: Ints) -> npt.NDArray[np.bool_]:
    """The reference asks of race only whether it is the second class or another one."""
    result: npt.NDArray[np.bool_] = (predicted != 1).astype(np.int64) == binary
    return result


def _recall(gold: Ints, predicted: Ints) -> tuple[Ints, Ints]:
    """Hits and images by class."""
    size = int(max(gold.max(), predicted.max())) + 1
    return np.bincount(gold[gold == predicted], minlength=size), np.bincount(gold, minlength=size)


def _f1(gold: Ints, predicted: Ints) -> tuple[Ints, Ints]:
    """2 TP and 2 TP + FP + FN by class, for the classes that images have."""
    size = int(max(gold.max(), predicted.max())) + 1
    hits = np.bincount(gold[gold == predicted], minlength=size)
    true = np.bincount(gold, minlength=size)
    num_predicted = np.bincount(predicted, minlength=size)
    return np.where(true > 0, 2 * hits, 0), np.where(true > 0, true + num_predicted, 0)


def _macro(numerator: Ints, denominator: Ints) -> float:
    here = denominator > 0
    return float(np.mean(numerator[here] / denominator[here]))


def _f1_tally(gold: Ints, predicted: Ints) -> Tally:
    """Each image counts in the class that it has, and in the one that it was taken for."""
    right = (gold == predicted).astype(np.float64)
    taken = np.isin(predicted, np.unique(gold))
    numerator = np.concatenate([2 * right, np.zeros(int(taken.sum()))])
    return Tally(numerator, np.ones_like(numerator), np.concatenate([gold, predicted[taken]]))


def _field(task: ImageTask, log: pa.Table, name: str) -> Ints:
    column = task.metadata.index(name)
    flat = log["metadata"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    result: Ints = flat.reshape(len(log), -1)[:, column].astype(np.int64)
    return result


def _ints(log: pa.Table, name: str) -> Ints:
    result: Ints = log[name].to_numpy().astype(np.int64)
    return result


def _there(value: float | None) -> float:
    assert value is not None
    return value
