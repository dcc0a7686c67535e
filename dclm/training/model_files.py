"""The files of a trained model: weights, weights on the way, the record, and a finished folder."""

from __future__ import annotations

from typing import Any

import orjson
from torch import Tensor

from dclm.packing import tokenizer
from dclm.packing.loader import Sequences
from dclm.recipe import Recipe, num_steps, part_steps
from dclm.training.model import OpenLM
from leaderboard.benchmark import INTERMEDIATE
from leaderboard.rounds.train_folder import file_of, write_weights
from leaderboard.rounds.train_log import Step
from pipelines.records import (
    File,
    ModelRecord,
    ModelWork,
    made_by,
)
from pipelines.storage.base import write_bytes
from pipelines.storage.chain import standing
from pipelines.storage.local import LocalStore

WEIGHTS, MODEL, TOKENIZER, RECORD = (
    "checkpoint.safetensors",
    "model.json",
    "tokenizer.json",
    "record.json",
)


def whole_weights(model: OpenLM) -> dict[str, Tensor]:
    """All weights, float32, on the CPU of every process."""
    whole = {}
    for name, tensor in model.state_dict().items():
        full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        whole[name] = full.detach().cpu().contiguous()
    return whole


def keep_weights(store: LocalStore, model: OpenLM, step: int, *, rank: int) -> None:
    """Leave the weights as they are after `step` steps. All processes call it."""
    weights = whole_weights(model)
    if rank == 0:
        write_weights(store, kept_name(step), weights)


def kept_name(step: int) -> str:
    return f"{INTERMEDIATE}/step-{step:08d}.safetensors"


def write_model(store: LocalStore, recipe: Recipe, weights: dict[str, Tensor]) -> list[File]:
    encoder = tokenizer.load(recipe.tokenizer)
    file = write_weights(store, WEIGHTS, weights)
    described = {
        "model": recipe.model.model_dump(mode="json"),
        "tokenizer": TOKENIZER,
        "tokenizer_name": encoder.name,
        "tokenizer_sha256": encoder.sha256,
        "end_of_text": recipe.tokenizer.end_of_text,
    }
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return [
        file,
        write_bytes(store, MODEL, orjson.dumps(described, option=options)),
        write_bytes(store, TOKENIZER, encoder.data),
        *(file_of(store, kept_name(step)) for step in part_steps(recipe)),
    ]


def seal(
    recipe: Recipe,
    data: Sequences,
    work: ModelWork,
    parents: dict[str, str],
    outputs: list[File],
    history: list[Step],
    started: str,
    *,
    figures: dict[str, float],
) -> ModelRecord:
    tail = [row.cross_entropy for row in history[-max(1, len(history) // 20) :]]
    steps = num_steps(recipe)
    used = steps * recipe.global_batch_size
    results: dict[str, Any] = {
        "loss": sum(tail) / len(tail),  # mean cross-entropy of the last twentieth of the steps
        "tokens_seen": tokens_after(recipe, steps),
    }
    counts = {
        "steps": steps,
        "sequences_seen": used,
        "sequences_available": data.num_sequences,
        "passes": -(-used // data.num_sequences),
        "params": recipe.model.num_params,
    }
    return ModelRecord.seal(
        work=work,
        parents=parents,
        outputs=outputs,
        counts=counts,
        results=results,
        made_by=made_by(started, locations={"packed": data.store.uri}, figures=figures),
    )


def tokens_after(recipe: Recipe, steps: int) -> int:
    return steps * recipe.global_batch_size * recipe.model.seq_len


def finished_model(store: LocalStore, key: str) -> ModelRecord | None:
    """The record of this very training if it is there; RecordError for another one's."""
    other = "another recipe, seed or packed data"
    return standing(store, key=key, kind=ModelRecord, other=other)


def finished_or_fail(store: LocalStore, key: str) -> ModelRecord:
    record = finished_model(store, key)
    assert record is not None, "the first process wrote no record"
    return record
