"""A page on one image task: all metrics, the confusion matrix, and the worst mistakes.

One self-contained HTML file; images are shrunk to thumbnails.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.image_tasks import ImageData
from evals.kinds import kind_of, read_data
from evals.reports import Run
from evals.tasks import EvalError, ImageTask, load_task
from pipelines.templates import templates

Ints = npt.NDArray[np.int64]
THUMBNAIL = 112  # pixels of the longest side
MAX_LABELS = 48  # classes up to which their names fit next to the confusion matrix
MAX_NAME = 30  # characters of a class name that are drawn
PAIRS = 12  # most confused pairs of classes on the page
Shown = dict[str, Any]
"""Values of the template, by its names."""


def image_page(run: Run, task: str, *, data: str, limit: int = 24) -> str:
    """The page of one task of a finished run; `data` is the folder where its dataset is.

    EvalError when the dataset is not the one that was measured.
    """
    definition = load_task(task)
    ref = next((ref for ref in run.record.work.tasks if ref.name == task), None)
    image_data = None if ref is None else read_data(definition, data)
    if (
        ref is None
        or not isinstance(image_data, ImageData)
        or not isinstance(definition, ImageTask)
    ):
        known = ", ".join(ref.name for ref in run.record.work.tasks)
        raise EvalError(f"{run.store.uri} has no task over images {task!r}; it has {known}")
    if image_data.sha256 != ref.data:
        raise EvalError(
            f"the dataset of {task} in {data} is not the one that was measured; name its folder "
            "with --data"
        )
    log = run.log(task)
    score = run.score(task)
    return (
        templates("evals.images")
        .get_template("task.html")
        .render(
            title=definition.title or task,
            description=definition.description,
            score=score,
            chance=definition.random_baseline.v2,
            model=run.record.parents["model"][:12],
            kind=definition.kind,
            shown=_CONTENT[definition.kind](definition, image_data, log, limit),
            metrics=kind_of(definition).metrics(definition, log) or {},
        )
    )


# ---- classification


def _classification(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> Shown:
    gold, predicted = _column(log, "gold"), _column(log, "predicted")
    names = data.classes[""]
    margin = log["margin"].to_numpy()
    wrong = np.flatnonzero(gold != predicted)
    worst = wrong[np.argsort(margin[wrong], kind="stable")][:limit]
    thumbnails = _thumbnails(data, worst.tolist())
    return {
        "confusion": confusion(gold, predicted, names),
        "empty": data.empty_classes(),
        "num_wrong": len(wrong),
        "cards": [
            {
                "image": thumbnails[row],
                "gold": names[gold[row]],
                "predicted": names[predicted[row]],
                "margin": -margin[row],
                "key": data.keys[row],
            }
            for row in worst.tolist()
        ],
    }


def confusion(gold: Ints, predicted: Ints, names: Sequence[str]) -> Shown:
    """The confusion matrix, as a plot or for many classes an image, and the commonest mistakes."""
    size = len(names)
    counts = np.bincount(gold * size + predicted, minlength=size * size).reshape(size, size)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    return {
        "size": size,
        "plot": _grid_of_names(counts, share, names) if size <= MAX_LABELS else None,
        "image": None if size <= MAX_LABELS else _image_of(share),
        "mistakes": [
            (names[cell // size], names[cell % size], int(off.flat[cell]), share.flat[cell])
            for cell in order.tolist()
            if off.flat[cell]
        ],
    }


def _grid_of_names(counts: Ints, share: npt.NDArray[Any], names: Sequence[str]) -> Shown:
    """Squares with class names to the left and above; their numbers are shown on hovering."""
    size, cell = len(names), 18
    left = 8 * min(MAX_NAME, max(len(name) for name in names)) + 10  # 8 pixels for a letter
    squares = [
        {
            "x": left + column * cell,
            "y": left + row * cell,
            "fill": _shade(share[row, column]),
            "title": f"{names[row]} taken for {names[column]}: {int(counts[row, column]):,} "
            f"({share[row, column]:.0%})",
        }
        for row in range(size)
        for column in range(size)
    ]
    return {
        "names": [name[:MAX_NAME] for name in names],
        "squares": squares,
        "cell": cell,
        "left": left,
        "side": left + size * cell + 4,
    }


def _shade(share: float) -> str:
    """A colour from white (0) to dark blue (1); the square root keeps small shares visible."""
    level = float(np.sqrt(share))
    low, high = (243, 245, 248), (16, 61, 116)
    mixed = (round(a + (b - a) * level) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _image_of(share: npt.NDArray[Any]) -> str:
    """An image with one square per pair of classes, at most 960 pixels wide."""
    from PIL import Image

    level = np.sqrt(share)[..., None]
    low, high = np.array([243, 245, 248]), np.array([16, 61, 116])
    pixels = (low + (high - low) * level).astype(np.uint8)
    scale = max(1, 960 // len(share))
    image = Image.fromarray(pixels).resize((len(share) * scale,) * 2, Image.Resampling.NEAREST)
    return _png(image)


# ---- the other kinds


def _retrieval(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> Shown:
    rank, gold = _column(log, "rank"), _column(log, "gold")
    predicted = _column(log, "predicted")
    is_text = log["side"].to_numpy(zero_copy_only=False) == "text"
    texts = [text for captions in data.captions for text in captions]
    order = np.flatnonzero(is_text)
    worst = order[np.argsort(-rank[order], kind="stable")][:limit]
    shown = [*gold[worst].tolist(), *predicted[worst].tolist()]
    thumbnails = _thumbnails(data, shown)
    return {
        "cards": [
            {
                "image": thumbnails[int(gold[row])],
                "text": texts[row],
                "rank": int(rank[row]),
                "nearest": thumbnails[int(predicted[row])],
            }
            for row in worst.tolist()
            if rank[row]
        ]
    }


def _association(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> Shown:
    values = log["jaccard"].to_numpy()
    worst = np.argsort(values, kind="stable")[:limit].tolist()
    shown_images = [number for row in worst for number in data.instances[row].images]
    thumbnails = _thumbnails(data, shown_images)
    entries = log.to_pylist()
    cards = []
    for row in worst:
        instance, entry = data.instances[row], entries[row]
        candidates = [
            {
                "image": thumbnails[image],
                "name": name,
                "mark": "right" if position in entry["gold"] else "quiet",
                "chosen": position in entry["predicted"],
            }
            for position, (name, image) in enumerate(
                zip(instance.candidates, instance.images, strict=True)
            )
        ]
        cards.append({"cue": instance.cue, "jaccard": values[row], "candidates": candidates})
    return {"cards": cards}


def _attributes(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> Shown:
    flat = log["metadata"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    numbers = flat.reshape(len(log), -1)
    parts = []
    for objective in ("gender", "age"):
        if objective in task.metadata and objective in data.classes:
            gold = numbers[:, task.metadata.index(objective)].astype(np.int64)
            predicted = _column(log, f"predicted_{objective}")
            shown = confusion(gold, predicted, data.classes[objective])
            parts.append({"objective": objective, "confusion": shown})
    return {"parts": parts}


_CONTENT = {
    "image_classification": _classification,
    "image_retrieval": _retrieval,
    "image_association": _association,
    "image_attributes": _attributes,
}


# ---- pieces


def _column(log: pa.Table, name: str) -> Ints:
    values: Ints = log[name].to_numpy().astype(np.int64)
    return values


def _thumbnails(data: ImageData, rows: Iterable[int]) -> dict[int, str]:
    """Thumbnails as data URIs, by their positions in the dataset."""
    from PIL import Image

    needed = set(rows)
    sources: dict[int, str] = {}
    for index, image in enumerate(data.images()):
        if index in needed:
            with Image.open(io.BytesIO(image)) as opened:
                shrunk = opened.convert("RGB")
            shrunk.thumbnail((THUMBNAIL, THUMBNAIL))
            if max(shrunk.size) < THUMBNAIL // 2:
                scale = THUMBNAIL // max(shrunk.size)
                size = (shrunk.width * scale, shrunk.height * scale)
                shrunk = shrunk.resize(size, Image.Resampling.NEAREST)
            sources[index] = _png(shrunk)
        if len(sources) == len(needed):
            break
    return sources


def _png(image: Any) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
