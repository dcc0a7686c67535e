"""A trained model in other formats, and OpenLM checkpoints of others as ours.

    hf        config.json, model.safetensors, tokenizer files: `import dclm.training.hf`, then the
              Auto classes of transformers load it, without remote code
    open_lm   checkpoint.pt and params.txt as open_lm writes them, and the model's JSON

A `.pt` of somebody else is a pickle. It is read with `weights_only`, which runs no code from it.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import orjson
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dclm.recipe import ModelConfig
from dclm.training.model import OpenLM, load_state_dict

Format = Literal["hf", "open_lm"]

# open_lm's names of what ModelConfig says.
_OPEN_LM_FIELDS = {
    "dim": "hidden_dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "seq_len": "seq_len",
    "vocab_size": "vocab_size",
    "post_embed_norm": "post_embed_norm",
    "weight_tying": "weight_tying",
}


def read_model(folder: str | Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Shape, weights and the rest of `model.json` of a finished training's folder.

    ValueError names what is missing or does not fit.
    """
    path = Path(folder)
    try:
        described = orjson.loads((path / "model.json").read_bytes())
        config = ModelConfig.model_validate(described["model"])
        weights = load_file(path / "checkpoint.safetensors")
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} is missing; name the folder of a finished training"
        ) from None
    except (orjson.JSONDecodeError, KeyError, ValidationError, SafetensorError) as error:
        raise ValueError(f"{path} does not hold a model: {error}") from None
    return config, weights, described


def export(model: str, *, to: Format, out: str) -> list[str]:
    """Write the model of a training run's folder in another format; returns the names of the files.

    ValueError for an unknown format, and for `out` that is not empty.
    """
    writers = {"hf": _write_hf, "open_lm": _write_open_lm}
    if to not in writers:
        raise ValueError(f"unknown format {to!r}; choose one of {', '.join(writers)}")
    target = Path(out)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; choose a new folder")
    config, weights, described = read_model(model)
    load_state_dict(OpenLM(config), weights)  # says which tensors do not fit, before anything else
    target.mkdir(parents=True, exist_ok=True)
    writers[to](config, weights, described, Path(model), target)
    return sorted(path.name for path in target.iterdir())


def _write_hf(
    config: ModelConfig,
    weights: dict[str, Tensor],
    described: dict[str, Any],
    source: Path,
    target: Path,
) -> None:
    end_of_text = described["end_of_text"]
    _write_json(
        target / "config.json",
        {
            "architectures": ["OpenLMForCausalLM"],
            "model_type": "dclm_openlm",
            "openlm": config.model_dump(mode="json"),
            "vocab_size": config.vocab_size,
            "hidden_size": config.dim,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "max_position_embeddings": config.seq_len,
            "tie_word_embeddings": config.weight_tying,
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "dtype": "float32",
        },
    )
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    if config.weight_tying:
        del tensors["model.output.weight"]  # one tensor, stored once
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(source / described["tokenizer"], target / "tokenizer.json")
    _write_json(
        target / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": config.seq_len,
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_open_lm(
    config: ModelConfig,
    weights: dict[str, Tensor],
    described: dict[str, Any],
    source: Path,
    target: Path,
) -> None:
    state = dict(weights)
    if config.ffn == "gelu":  # open_lm stores these matrices under two names
        for name, tensor in weights.items():
            for inner, outer in (
                (".feed_forward.0.", "._ff_w1."),
                (".feed_forward.2.", "._ff_w2."),
            ):
                if inner in name:
                    state[name.replace(inner, outer)] = tensor
    checkpoint = {"epoch": 1, "name": source.name, "state_dict": state}
    torch.save(checkpoint, target / "checkpoint.pt")
    shape = {theirs: getattr(config, ours) for ours, theirs in _OPEN_LM_FIELDS.items()}
    _write_json(target / "model.json", shape)
    arguments = {
        "model": "model",
        "model_norm": config.norm,
        "qk_norm": config.qk_norm,
        "positional_embedding_type": config.rotary,
        "ffn_type": "swiglu_torch" if config.ffn == "swiglu" else config.ffn,
        "vocab_size": config.vocab_size,
        "seq_len": config.seq_len,
        "precision": "fp32",
    }
    lines = [f"{name}: {value}\n" for name, value in sorted(arguments.items())]
    (target / "params.txt").write_text("".join(lines))
    shutil.copyfile(source / described["tokenizer"], target / "tokenizer.json")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_open_lm(checkpoint: str | Path, config: ModelConfig) -> OpenLM:
    """The model of an open_lm checkpoint; ValueError as of `read_state`, or for another shape."""
    return model_of_state(read_state(checkpoint), config)


def model_of_state(state: dict[str, Tensor], config: ModelConfig) -> OpenLM:
    """A model with the tensors of a state dict. ValueError when it is of another shape."""
    model = OpenLM(config)
    load_state_dict(model, {name: tensor.float() for name, tensor in state.items()})
    return model


def read_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of an open_lm checkpoint (`epoch_N.pt`, or its state dict as safetensors).

    ValueError when the file holds anything but tensors and plain values (such a pickle is refused,
    not run), or is damaged.
    """
    path = Path(checkpoint)
    if path.suffix == ".safetensors":
        state: Any = load_file(path)
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise ValueError(f"there is no file {path}; name a checkpoint") from None
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{path} is not only weights and was not loaded, since its pickle could run code "
                f"({reason}); ask for a safetensors file"
            ) from None
        except (RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(torch.is_tensor(value) for value in state.values()):
        raise ValueError(f"{path} holds no state dict; expected tensors by name")
    return state
