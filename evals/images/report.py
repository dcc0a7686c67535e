"""A page on one task over images: every figure, what is taken for what, and the worst mistakes.

One HTML file with everything in it: it can be mailed. Images are shrunk to thumbnails.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.images.image_tasks import ImageData
from evals.kinds import kind_of, read_data
from evals.reports import Run
from evals.tasks import EvalError, ImageTask, load_task

Ints = npt.NDArray[np.int64]
THUMBNAIL = 112  # pixels of the longest side
MAX_LABELS = 48  # classes whose names fit next to the confusion image
PAIRS = 12

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem;
  color: #1c2430; background: #fff }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.grid { display: flex; flex-wrap: wrap; gap: 1rem }
.card { width: 12.5rem; border: 1px solid #d5dbe3; border-radius: 6px; padding: .6rem;
  font-size: 13px; overflow-wrap: anywhere }
.card img { display: block; margin: 0 auto .4rem; max-height: 112px; image-rendering: auto }
.wide { width: 100% } .wide img { display: inline-block; margin: 0 .2rem }
.right { color: #17693a } .wrong { color: #a5232c } .quiet { color: #5d6978 }
figure { margin: 0; overflow-x: auto } svg text { font: 11px system-ui, sans-serif; fill: #1c2430 }
"""


def image_page(run: Run, task: str, *, data: str, limit: int = 24) -> str:
    """The page of one task of a finished run; `data` is the folder where its dataset lies.

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
    error = "" if score.stderr is None else f" &plusmn; {score.stderr:.4f}"
    parts = [
        f"<h1>{escape(definition.title or task)}</h1>",
        f'<p class="quiet">{escape(definition.description)} {score.num_items:,} items.</p>',
        f"<p><b>{escape(score.metric)}: {score.value:.4f}</b>{error}, "
        f"chance {definition.random_baseline.v2:.4f}. Model "
        f"<code>{escape(run.record.parents['model'][:12])}</code></p>",
        _CONTENT[definition.kind](definition, image_data, log, limit),
        "<h2>Every figure</h2>",
        _figures(kind_of(definition).metrics(definition, log) or {}),
    ]
    title = escape(f"{definition.title or task}: what the model sees")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _figures(metrics: Mapping[str, float | None]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="n">'
        f"{'no member' if value is None else f'{value:,.4f}'}</td></tr>"
        for name, value in metrics.items()
    )
    return f"<table>{rows}</table>"


# ---- classification


def _classification(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> str:
    gold, predicted = _column(log, "gold"), _column(log, "predicted")
    names = data.classes[""]
    margin = log["margin"].to_numpy()
    wrong = np.flatnonzero(gold != predicted)
    worst = wrong[np.argsort(margin[wrong], kind="stable")][:limit]
    thumbnails = _thumbnails(data, worst.tolist())
    empty = data.empty_classes()
    note = f"<p>No image has the class {escape(', '.join(empty))}.</p>" if empty else ""
    cards = [
        f'<div class="card">{thumbnails[row]}<div class="right">is {escape(names[gold[row]])}</div>'
        f'<div class="wrong">taken for {escape(names[predicted[row]])}</div>'
        f'<div class="quiet">by {-margin[row]:.2f} logits &middot; {escape(data.keys[row])}</div>'
        "</div>"
        for row in worst.tolist()
    ]
    return (
        confusion(gold, predicted, names)
        + note
        + f"<h2>The worst of {len(wrong):,} mistakes</h2>"
        + _grid(cards, "There are none.")
    )


def confusion(gold: Ints, predicted: Ints, names: Sequence[str]) -> str:
    """What is taken for what: an image with a row for each class, and the commonest mistakes."""
    size = len(names)
    counts = np.bincount(gold * size + predicted, minlength=size * size).reshape(size, size)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = _grid_of_names(counts, share, names) if size <= MAX_LABELS else _image_of(share)
    off = counts.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    rows = "".join(
        f"<tr><td>{escape(names[cell // size])}</td><td>{escape(names[cell % size])}</td>"
        f'<td class="n">{off.flat[cell]:,}</td><td class="n">{share.flat[cell]:.0%}</td></tr>'
        for cell in order.tolist()
        if off.flat[cell]
    )
    table = f"<table><tr><th>is<th>taken for<th>images<th>of the class</tr>{rows}</table>"
    return (
        "<h2>What is taken for what</h2><p class='quiet'>A row is a class, a column what its "
        f"images are taken for; dark is often.</p><figure>{image}</figure>"
        + (table if rows else "")
    )


def _grid_of_names(counts: Ints, share: npt.NDArray[Any], names: Sequence[str]) -> str:
    """Squares with names to the left and above, and numbers when one points at them."""
    size, cell, left = len(names), 18, 8 * min(30, max(len(name) for name in names)) + 10
    parts = []
    for row in range(size):
        y = left + row * cell
        parts.append(
            f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(names[row][:30])}</text>'
        )
        x = left + row * cell + 13
        parts.append(
            f'<text transform="rotate(-90 {x} {left - 6})" x="{x}" y="{left - 6}">'
            f"{escape(names[row][:30])}</text>"
        )
        for column in range(size):
            number = int(counts[row, column])
            title = f"{names[row]} taken for {names[column]}: {number:,} ({share[row, column]:.0%})"
            parts.append(
                f'<rect x="{left + column * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'fill="{_shade(share[row, column])}"><title>{escape(title)}</title></rect>'
            )
    side = left + size * cell + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" role="img" '
        f'aria-label="confusion of {size} classes">{"".join(parts)}</svg>'
    )


def _shade(share: float) -> str:
    """White for never, dark blue for always; small shares stay visible."""
    level = float(np.sqrt(share))
    low, high = (243, 245, 248), (16, 61, 116)
    mixed = (round(a + (b - a) * level) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _image_of(share: npt.NDArray[Any]) -> str:
    """One pixel for each pair of classes, enlarged until it can be seen."""
    from PIL import Image

    level = np.sqrt(share)[..., None]
    low, high = np.array([243, 245, 248]), np.array([16, 61, 116])
    pixels = (low + (high - low) * level).astype(np.uint8)
    scale = max(1, 960 // len(share))
    image = Image.fromarray(pixels).resize((len(share) * scale,) * 2, Image.Resampling.NEAREST)
    return f'<img alt="confusion of {len(share)} classes" src="{_png(image)}">'


# ---- the other kinds


def _retrieval(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> str:
    rank, gold = _column(log, "rank"), _column(log, "gold")
    predicted = _column(log, "predicted")
    is_text = log["side"].to_numpy(zero_copy_only=False) == "text"
    texts = [text for captions in data.captions for text in captions]
    order = np.flatnonzero(is_text)
    worst = order[np.argsort(-rank[order], kind="stable")][:limit]
    shown = [*gold[worst].tolist(), *predicted[worst].tolist()]
    thumbnails = _thumbnails(data, shown)
    cards = [
        f'<div class="card">{thumbnails[int(gold[row])]}'
        f'<div class="right">{escape(texts[row])}</div>'
        f'<div class="wrong">{rank[row]:,} other images are nearer; the nearest:</div>'
        f"{thumbnails[int(predicted[row])]}</div>"
        for row in worst.tolist()
        if rank[row]
    ]
    return "<h2>Captions that are farthest from their image</h2>" + _grid(cards, "There are none.")


def _association(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> str:
    values = log["jaccard"].to_numpy()
    worst = np.argsort(values, kind="stable")[:limit].tolist()
    shown_images = [number for row in worst for number in data.instances[row].images]
    thumbnails = _thumbnails(data, shown_images)
    entries = log.to_pylist()
    cards = []
    for row in worst:
        instance, entry = data.instances[row], entries[row]
        shown = []
        for position, (name, image) in enumerate(
            zip(instance.candidates, instance.images, strict=True)
        ):
            mark = "right" if position in entry["gold"] else "quiet"
            chosen = " (chosen)" if position in entry["predicted"] else ""
            shown.append(f'{thumbnails[image]}<span class="{mark}">{escape(name)}{chosen}</span>')
        score = f"<span class='quiet'>Jaccard {values[row]:.2f}</span>"
        heading = f"<b>{escape(instance.cue)}</b> {score}<br>"
        cards.append(f'<div class="card wide">{heading}{"".join(shown)}</div>')
    return "<h2>Cues with the least overlap</h2>" + _grid(cards, "There are none.")


def _attributes(task: ImageTask, data: ImageData, log: pa.Table, limit: int) -> str:
    flat = log["metadata"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    numbers = flat.reshape(len(log), -1)
    parts = []
    for objective in ("gender", "age"):
        if objective in task.metadata and objective in data.classes:
            gold = numbers[:, task.metadata.index(objective)].astype(np.int64)
            predicted = _column(log, f"predicted_{objective}")
            parts.append(
                f"<h2>{objective}</h2>" + confusion(gold, predicted, data.classes[objective])
            )
    return "".join(parts)


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


def _grid(cards: Sequence[str], none: str) -> str:
    return f'<div class="grid">{"".join(cards)}</div>' if cards else f"<p>{none}</p>"


def _thumbnails(data: ImageData, rows: Iterable[int]) -> dict[int, str]:
    """Small images as HTML, by their places in the dataset."""
    from PIL import Image

    needed = set(rows)
    tags: dict[int, str] = {}
    for index, image in enumerate(data.images()):
        if index in needed:
            with Image.open(io.BytesIO(image)) as opened:
                shrunk = opened.convert("RGB")
            shrunk.thumbnail((THUMBNAIL, THUMBNAIL))
            if max(shrunk.size) < THUMBNAIL // 2:
                scale = THUMBNAIL // max(shrunk.size)
                size = (shrunk.width * scale, shrunk.height * scale)
                shrunk = shrunk.resize(size, Image.Resampling.NEAREST)
            tags[index] = f'<img alt="" src="{_png(shrunk)}">'
        if len(tags) == len(needed):
            break
    return tags


def _png(image: Any) -> str:
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
