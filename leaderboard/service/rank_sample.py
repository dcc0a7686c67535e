"""Repeat answers whose score depends on other images: ranks, associations, attributes.

A rank is over all images or all captions of a task, so a laptop cannot repeat it for one image
alone. But the claimed best match must be as near as the right one and as every sampled candidate,
and no more sampled candidates may be nearer than the rank says. In a task of `CANDIDATES` images or
fewer all are sampled, and the rank must be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.controls import hashed_rows
from evals.images.image_metrics import jaccard, normalised
from evals.images.image_tasks import ImageData
from evals.images.zeroshot import chosen_class, classifier, cue_prompt, finite
from evals.tasks import ImageTask

Floats = npt.NDArray[np.float32]

CANDIDATES = 1000  # images encoded per task; a minute on a laptop with a small CLIP model
SLACK = 0.005  # in cosine, for other hardware or precision; nearest neighbours differ by more
APART = 1e-6  # difference of a recomputed Jaccard index, which is a ratio of small counts


def ranks_again(
    task: ImageTask, data: ImageData, rows: Sequence[int], model: Any, log: pa.Table
) -> list[int]:
    """Those of `rows` where the rank of the image or of its first caption contradicts the log."""
    num_images = len(data.captions)
    asked = set(hashed_rows(data.identity, num_images, CANDIDATES, what=f"ranks {list(rows)}"))
    first = np.cumsum([0, *(len(captions) for captions in data.captions)])
    owner = np.repeat(np.arange(num_images), np.diff(first))
    by_row = log.take(np.argsort(log["row"].to_numpy()))
    predicted, rank = by_row["predicted"].to_numpy(), by_row["rank"].to_numpy()
    if len(by_row) != len(owner) + num_images:
        return list(rows)
    for row in rows:  # the claimed best match is a candidate, too
        text, image = int(first[row]), len(owner) + row
        best_image, best_text = int(predicted[text]), int(predicted[image])
        if not (0 <= best_image < num_images and 0 <= best_text < len(owner)):
            return [row]
        asked |= {row, best_image, int(owner[best_text])}
    chosen = np.array(sorted(asked))
    texts = np.flatnonzero(np.isin(owner, chosen))
    captions = [caption for image in data.captions for caption in image]
    images = _encoded(task, data, chosen, model)
    words = normalised(finite(task, model.encode_texts([captions[text] for text in texts]), "text"))
    position_of_image = {image: number for number, image in enumerate(chosen.tolist())}
    position_of_text = {text: number for number, text in enumerate(texts.tolist())}
    whole = len(chosen) == num_images
    wrong = []
    for row in rows:
        text, image = int(first[row]), len(owner) + row
        to_images = images @ words[position_of_text[text]]
        own = np.array([position_of_image[row]])
        best = position_of_image[int(predicted[text])]
        ok = _fits(to_images, own, own, best, int(rank[text]), whole=whole)
        to_texts = words @ images[position_of_image[row]]
        mine = np.flatnonzero(owner[texts] == row)
        said = {captions[texts[number]] for number in mine.tolist()}
        alike = [number for number, text_ in enumerate(texts.tolist()) if captions[text_] in said]
        best = position_of_text[int(predicted[image])]
        ok &= _fits(to_texts, mine, np.array(alike), best, int(rank[image]), whole=whole)
        if not ok:
            wrong.append(row)
    return wrong


def _fits(
    scores: Floats,
    own: npt.NDArray[np.int64],
    alike: npt.NDArray[np.int64],
    best: int,
    rank: int,
    *,
    whole: bool,
) -> bool:
    """Whether a claimed rank and best match fit the cosines of the candidates, `scores` (n,).

    `own` are positions of right candidates; `alike` also has captions with the same text, which
    do not count as rivals.
    """
    right = scores[own].max()
    others = np.delete(scores, alike)
    nearest = max(right, others.max(initial=-1.0))
    nearer = int((others > right + SLACK).sum())
    as_near = int((np.delete(scores, own) > right - SLACK).sum())
    return bool(
        scores[best] >= nearest - SLACK and nearer <= rank and (not whole or rank <= as_near)
    )


def associations_again(
    task: ImageTask, data: ImageData, rows: Sequence[int], model: Any, log: pa.Table
) -> list[int]:
    """Those of `rows` whose Jaccard index differs from the log."""
    instances = [data.instances[row] for row in rows]
    chosen = np.array(sorted({image for own in instances for image in own.images}))
    position = {image: number for number, image in enumerate(chosen.tolist())}
    images = _encoded(task, data, chosen, model)
    prompts = [cue_prompt(own.cue) for own in instances]
    texts = normalised(finite(task, model.encode_texts(prompts), "text"))
    claimed = dict(zip(log["row"].to_pylist(), log["jaccard"].to_pylist(), strict=True))
    wrong = []
    for row, own, text in zip(rows, instances, texts, strict=True):
        scores = images[[position[image] for image in own.images]] @ text
        again = jaccard(scores, np.array(own.associated))
        if abs(claimed.get(row, -1.0) - again) > APART:
            wrong.append(row)
    return wrong


def attributes_again(
    task: ImageTask, data: ImageData, rows: Sequence[int], model: Any, log: pa.Table
) -> list[int]:
    """Those of `rows` whose predicted class differs from the log, for any objective."""
    chosen = np.array(rows)
    images = _encoded(task, data, chosen, model)
    own = replace(data, metadata=data.metadata[chosen])
    by_row = {row: number for number, row in enumerate(log["row"].to_pylist())}
    same = np.ones(len(rows), bool)
    for objective, classes in data.classes.items():
        logits = images @ classifier(model, classes, data.templates[objective])
        again = chosen_class(task, own, objective, logits)
        claimed = log[f"predicted_{objective}"].to_pylist()
        said = [claimed[by_row[row]] if row in by_row else -1 for row in rows]
        near = logits[np.arange(len(rows)), np.clip(said, 0, logits.shape[1] - 1)]
        same &= (again == said) | ((near >= logits.max(axis=1) - SLACK) & (np.array(said) >= 0))
    return list(compress(rows, (~same).tolist()))


def _encoded(task: ImageTask, data: ImageData, chosen: npt.NDArray[Any], model: Any) -> Floats:
    """The features of the chosen images, of length 1, in task order: (image, dim) float32."""
    asked = set(chosen.tolist())
    encoded = (image for row, image in enumerate(data.images()) if row in asked)
    return normalised(finite(task, model.encode_images(encoded), "image"))


AGAIN = {
    "image_retrieval": ranks_again,
    "image_association": associations_again,
    "image_attributes": attributes_again,
}
