"""A CLIP model behind the protocol of evals: our checkpoints, and any model of open_clip.

Images are decoded by threads while the towers compute, and go through the transform that the
model was made with.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
from PIL import Image

from datacomp.recipe import MODELS
from datacomp.training.train import CONFIG, WEIGHTS
from evals.images.open_clip import OpenClip, device_of, load_open_clip
from leaderboard.benchmark import INTERMEDIATE
from pipelines.errors import DataError
from pipelines.records import ModelRecord, digest, parse_record, sha256_file
from pipelines.storage.chain import RECORD

Image.MAX_IMAGE_PIXELS = 256_000_000  # a larger image is refused, before it is decoded


def load(
    model: str, *, device: str | None = None, checkpoint: str | None = None, **_: Any
) -> OpenClip:
    """A trained model of ours by its folder, or `NAME/PRETRAINED` of open_clip's list.

    `checkpoint` names weights on the way, in the folder `intermediate` of a model of ours.

    DataError when the folder holds no model, or weights that do not fit its configuration.
    """
    if Path(model).is_dir():
        return load_folder(model, device=device, checkpoint=checkpoint)
    if checkpoint is not None:
        raise DataError(f"{model} is a public model; only our own training keeps checkpoints")
    name, slash, tag = model.partition("/")
    if not slash:
        raise DataError(
            f"{model} is not a folder with a model; give one, or a model of open_clip with its "
            "weights, as ViT-B-32/openai"
        )
    return load_open_clip(name, pretrained=tag, device=device, configs=MODELS)


def load_folder(
    folder: str, *, device: str | None = None, checkpoint: str | None = None
) -> OpenClip:
    """A model that `datacomp train` left in a folder."""
    path = Path(folder)
    if not (path / RECORD).is_file():
        raise DataError(f"{folder} has no {RECORD}: its training has not finished")
    record = parse_record((path / RECORD).read_bytes(), source=f"{folder}/{RECORD}")
    if not isinstance(record, ModelRecord) or record.work.benchmark != "datacomp":
        raise DataError(f"{folder} holds no CLIP model, but a {record.kind} record")
    for file in record.outputs:
        if sha256_file(path / file.name) != file.sha256:
            raise DataError(f"{folder}/{file.name} is not the file that its record names")
    weights = WEIGHTS if checkpoint is None else f"{INTERMEDIATE}/{checkpoint}.safetensors"
    if not (path / weights).is_file():
        raise DataError(f"{folder} has no checkpoint {checkpoint!r}; `--checkpoint all` lists them")
    made, transform, tokenizer = open_folder(path, weights=weights)
    chosen = device_of(device)
    settings = {"device": chosen, "precision": "fp32", "image_size": made.visual.image_size}
    return OpenClip(
        made,
        transform,
        tokenizer,
        id=record.id if checkpoint is None else digest([record.id, checkpoint]),
        settings=_plain(settings),
        device=chosen,
        reload=(_reload_folder, (folder, device, checkpoint)),
    )


def open_folder(path: Path, *, weights: str = WEIGHTS) -> tuple[Any, Any, Any]:
    """Model, transform and tokenizer of a folder with weights and their configuration.

    DataError for weights of another architecture: open_clip itself would stretch some of them.
    """
    import open_clip
    from safetensors.torch import load_file

    name = f"local-dir:{path}"
    logging.disable(logging.WARNING)  # "model initialized randomly": it is about to get its weights
    try:
        made, _, transform = open_clip.create_model_and_transforms(name, load_weights=False)
    finally:
        logging.disable(logging.NOTSET)
    stored, expected = load_file(path / weights), made.state_dict()
    for key in sorted({*stored, *expected}):
        shapes = [
            tuple(state[key].shape) if key in state else "nothing" for state in (stored, expected)
        ]
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{path}: the weights are of another architecture than {CONFIG} says: {key} is "
                f"{shapes[0]}, expected {shapes[1]}"
            )
    made.load_state_dict(stored)
    return made, transform, open_clip.get_tokenizer(name)


@lru_cache(maxsize=1)
def _reload_folder(folder: str, device: str | None, checkpoint: str | None) -> OpenClip:
    """In a worker process: once, however many datasets it gets."""
    return load_folder(folder, device=device, checkpoint=checkpoint)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = orjson.loads(orjson.dumps(settings, default=list))
    return result
