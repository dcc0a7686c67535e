"""Synthetic image datasets in the published WebDataset layout, to try a suite without its data.

Class names, templates, captions, groups and files have the form of the real ones; the images are
patches of colour and noise. Checksums and sizes are not the real ones, so scores on them are marked
unverified and cannot rank.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import orjson

from evals.tasks import EvalError, ImageTask, Task
from evals.text.synthetic import WORDS

SIDE = 64  # pixels of a synthetic image
TEMPLATES = ("a photo of a {c}.", "a drawing of a {c}.")
OBJECTIVES = {"race": 7, "gender": 2, "age": 9, "toxic": 18}
"""FairFace's objectives and their numbers of classes (Gadre et al. 2023, appendix N)."""
FIELDS = {
    "region": 6,
    "country": 8,
    "year": 3,
    "income_ds": 4,
    "income_meta": 4,
    "slide": 5,
    "gender": 2,
    "race": 7,
    "race_binary": 2,
    "age": 9,
}
"""The number of values of each metadata column; two for others."""

Members = list[tuple[str, bytes]]


def write_synthetic_images(
    tasks: Iterable[Task], folder: Path, *, seed: int, images: int = 64, shards: int = 2
) -> list[Path]:
    """Write a dataset of `images` samples for every task that has none; returns the new folders.

    Same seed, same bytes. Labels are assigned in turn, so every class has an image if there are
    enough. EvalError for a task over texts.
    """
    written = []
    for task in tasks:
        if not isinstance(task, ImageTask):
            raise EvalError(f"task {task.name} is over texts; its data is made by write_synthetic")
        root = folder / task.file
        if (root / "test" / "nshards.txt").exists():
            continue
        rng = random.Random(f"{seed} {task.file}")
        rows = [_sample(task, number, rng) for number in range(images)]
        (root / "test").mkdir(parents=True, exist_ok=True)
        for name, lines in _lists(task).items():
            (root / name).write_text("\n".join(lines) + "\n")
        for number in range(shards):
            part = range(number * images // shards, (number + 1) * images // shards)
            _write_tar(root / "test" / f"{number}.tar", [rows[row] for row in part], part.start)
        (root / "test" / "nshards.txt").write_text(f"{shards}\n")
        written.append(root)
    return written


def _lists(task: ImageTask) -> dict[str, list[str]]:
    if task.kind == "image_retrieval":
        return {"dataset_type.txt": ["retrieval"]}
    if task.kind == "image_association":
        return {}
    if task.kind == "image_attributes":
        classes = [f"{o}:{_word(n)}" for o, count in OBJECTIVES.items() for n in range(count)]
        templates = [f"{o}:{template}" for o in OBJECTIVES for template in TEMPLATES]
    else:
        classes = [_word(number) for number in range(task.classes or 2)]
        templates = list(TEMPLATES)
    return {"classnames.txt": classes, "zeroshot_classification_templates.txt": templates}


def _word(number: int) -> str:
    """A distinct name for every number."""
    rest, index = divmod(number, len(WORDS))
    return WORDS[index] if not rest else f"{WORDS[index]} {_word(rest - 1)}"


def _sample(task: ImageTask, number: int, rng: random.Random) -> Members:
    """The members of one sample, by extension."""
    if task.kind == "image_association":
        return _association(rng)
    members: Members = [("png", _image(rng))]
    if task.kind == "image_retrieval":
        captions = [_caption(number, copy, rng) for copy in range(5)]
        return [*members, ("txt", "\n".join(captions).encode())]
    label = number % (task.classes or 2)
    if task.kind == "image_classification":
        members.append(("cls", str(label).encode()))
    if task.metadata:
        members.append(("npy", _numbers(task, number, label)))
    return members


def _numbers(task: ImageTask, number: int, label: int) -> bytes:
    """A row of whole numbers as .npy; groups are assigned in turn, so that each has members."""
    row = [
        label if field == "y" else (number // (position + 1)) % FIELDS.get(field, 2)
        for position, field in enumerate(task.metadata)
    ]
    data = io.BytesIO()
    np.save(data, np.array(row, dtype=np.int64))
    return data.getvalue()


def _association(rng: random.Random) -> Members:
    """A cue with five, six, ten or twelve candidates, as in WinoGAViL."""
    count = rng.choice((5, 6, 10, 12))
    candidates = [_word(rng.randrange(10_000)) for _ in range(count)]
    candidates = [f"{candidate} {index}" for index, candidate in enumerate(candidates)]
    fields = {
        "cue": _word(rng.randrange(1000)),
        "candidates": candidates,
        "associations": rng.sample(candidates, rng.randint(2, 4)),
    }
    images = [(f"{index}.png", _image(rng)) for index in range(count)]
    return [("json", orjson.dumps(fields)), *images]


def _caption(number: int, copy: int, rng: random.Random) -> str:
    return f"a {' '.join(rng.choices(WORDS, k=4))} {number} {copy}"


def _image(rng: random.Random) -> bytes:
    """Four patches of colour with noise over them, as PNG."""
    from PIL import Image

    noise = np.random.default_rng(rng.randrange(2**32))
    patches = noise.integers(0, 256, (2, 2, 3)).repeat(SIDE // 2, 0).repeat(SIDE // 2, 1)
    pixels = np.clip(patches + noise.integers(-16, 17, (SIDE, SIDE, 3)), 0, 255)
    data = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _write_tar(path: Path, rows: Sequence[Members], first: int) -> None:
    import tarfile

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, members in enumerate(rows, start=first):
            for extension, data in members:
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
