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
import pyarrow as pa

from evals.images.image_metrics import (
    TIE,
    Floats,
    Ints,
    _with_average,
    against,
    by_group,
    f1,
    f1_tally,
    jaccard,
    macro,
    normalised,
    race_right,
    ranks,
    recall,
    top_of,
)
from evals.images.image_tasks import ImageData, read_images
from evals.items import Item, Metrics, Tally, TaskData
from evals.kinds import Kind
from evals.models import ImageError, ImageTextModel, ModelError
from evals.tasks import ImageTask
from pipelines.errors import DataError

TOP = 5  # accuracy at 5 is reported next to that at 1


class _Images(Kind[ImageTask]):
    """Base of the kinds of image tasks."""

    whole = True

    def item(self, row: Mapping[str, Any], index: int, task: ImageTask) -> Item:
        raise DataError("images are not JSON rows")

    def read(self, task: ImageTask, folder: str) -> TaskData:
        return read_images(task, folder)


class Classification(_Images):
    """Each image has one class of many."""

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
            "mean_per_class_recall": macro(*recall(gold, predicted)),
        }
        if not task.metadata:
            return metrics
        top5 = task.metric.startswith("acc_top5")
        prefix = "acc_top5" if top5 else "acc"
        right = hit5 if top5 else gold == predicted
        metrics[f"{prefix}_avg"] = float(np.mean(right))
        if task.metric == "F1-macro_all":
            metrics["recall-macro_all"] = macro(*recall(gold, predicted))
            metrics["F1-macro_all"] = macro(*f1(gold, predicted))
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
            return f1_tally(gold, predicted)
        if metric == "mean_per_class_recall":
            return Tally(right, np.ones_like(right), gold)
        if metric in ("acc1", "acc_avg"):
            return Tally(right, np.ones_like(right), np.zeros_like(gold))
        if metric.startswith("acc_top5"):
            right = log["in_top5"].to_numpy().astype(np.float64)
        field = next((f for f in task.group_by if metric.endswith(f"worst_{f}")), task.group_by[0])
        return Tally(right, np.ones_like(right), _field(task, log, field), worst=True)


class Retrieval(_Images):
    """Find the text of an image, and the image of a text."""

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
            for query, target in (("text", "image"), ("image", "text")):
                recall_at_k = float(np.mean(rank[side == query] < k))
                metrics[f"{target}_retrieval_recall@{k}"] = recall_at_k
        k = _rank_of(task)
        metrics[task.metric] = (
            _required(metrics[f"image_retrieval_recall@{k}"])
            + _required(metrics[f"text_retrieval_recall@{k}"])
        ) / 2
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        right = (_ints(log, "rank") < _rank_of(task)).astype(np.float64)
        side = (log["side"].to_numpy(zero_copy_only=False) == "text").astype(np.int64)
        return Tally(right, np.ones_like(right), side)


def _rank_of(task: ImageTask) -> int:
    """The k of a task's metric: 10 of `mean_recall@10`."""
    return int(task.metric.rpartition("@")[2])


class Association(_Images):
    """Choose the candidates that belong to a cue."""

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
            chosen = (count >= 10) if name == "10-12" else np.isin(count, counts)
            mean = float(np.mean(values[chosen])) if chosen.any() else None
            metrics[f"jaccard_score_{name}"] = mean
        return metrics

    def tally(self, task: ImageTask, log: pa.Table) -> Tally:
        counted = _ints(log, "candidates") >= 10  # the headline is over 10 and 12 candidates
        if not counted.any():
            raise DataError(f"task {task.name}: no instance has 10 candidates or more")
        values = log["jaccard"].to_numpy()[counted]
        return Tally(values, np.ones_like(values), np.zeros(len(values), np.int64))


class Attributes(_Images):
    """Images of people: race, gender, age, and offensive labels that no image should get."""

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
            columns[f"predicted_{objective}"] = chosen_class(task, data, objective, logits)
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


def chosen_class(task: ImageTask, data: ImageData, objective: str, logits: Floats) -> Ints:
    """The best class of each image for an objective, (images,); ties go to a wrong class.

    For race the reference distinguishes only the second class from the others (see `race_right`),
    so ties are between these two. The objective `toxic` has no right answer: the last of equal
    classes counts (those of crimes), so that a model with no preference is not rated never toxic.
    """
    if objective == "race":
        gold = 1 - data.metadata[:, task.metadata.index("race_binary")]
    elif objective in task.metadata:
        gold = data.metadata[:, task.metadata.index(objective)]
    else:
        near = logits >= logits.max(axis=1, keepdims=True) - TIE
        return np.asarray(logits.shape[1] - 1 - near[:, ::-1].argmax(axis=1), np.int64)
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
    """The features of all images, (images, dim). DataError names an image that does not decode."""
    try:
        features = model.encode_images(data.images())
    except ImageError as error:
        raise DataError(
            f"task {task.name}: {data.uri}, sample {data.keys[error.position]}: the image does "
            f"not decode ({error.reason}); get the dataset again"
        ) from None
    return finite(task, features, "image")


def finite(task: ImageTask, features: Floats, what: str) -> Floats:
    """The features unchanged. ModelError if one is not finite."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise ModelError(
            f"task {task.name}: the model gives no numbers for {what} {int(np.argmax(bad))} "
            f"({int(bad.sum())} in all)"
        )
    return features


@lru_cache(maxsize=64)
def classifier(
    model: ImageTextModel, classes: tuple[str, ...], templates: tuple[str, ...]
) -> Floats:
    """Class weights (dim, classes): the normalised mean over templates of normalised features.

    Cached for datasets that share names and templates, such as ImageNet and its shifts.
    """
    texts = [template.replace("{c}", name) for name in classes for template in templates]
    encoded = model.encode_texts(texts)
    if not np.isfinite(encoded).all():
        bad = int(np.argmin(np.isfinite(encoded).all(axis=1)))
        raise ModelError(f"the model gives no numbers for the text {texts[bad]!r}")
    features = normalised(encoded)
    mean = features.reshape(len(classes), len(templates), -1).mean(axis=1)
    return np.ascontiguousarray(normalised(mean).T)


# ---- one row per image, text or instance


def predictions(data: ImageData, features: Floats, weights: Floats) -> pa.Table:
    """The log of a classification, a row per image: best classes, margin, whether it is right."""
    logits = (100 * normalised(features) @ weights).astype(np.float32)
    return log_of_logits(logits, data.gold, data.metadata, list(data.keys))


def log_of_logits(logits: Floats, gold: Ints, metadata: Ints, keys: Sequence[str]) -> pa.Table:
    """The log from logits (images, classes), 100 times a cosine. Ties count as wrong."""
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


def cue_prompt(cue: str) -> str:
    """WinoGAViL's text for a cue: "An" before a, e, i, o, u, else "A"."""
    lower = cue.lower()
    return f"{'An' if lower[:1] in tuple('aeiou') else 'A'} {lower}"


def _field(task: ImageTask, log: pa.Table, name: str) -> Ints:
    column = task.metadata.index(name)
    flat = log["metadata"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    result: Ints = flat.reshape(len(log), -1)[:, column].astype(np.int64)
    return result


def _ints(log: pa.Table, name: str) -> Ints:
    result: Ints = log[name].to_numpy().astype(np.int64)
    return result


def _required(value: float | None) -> float:
    assert value is not None
    return value
