"""A concept learnt by a tiny Stable Diffusion with random weights, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from ambient.commands import app
from ambient.pool.pool import from_folder
from ambient.systems import concept
from ambient.systems.pseudo_words import NUM_WORDS
from pipelines.errors import DataError, UsageError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline as `save_pretrained` writes it, of a few thousand weights."""
    import diffusers
    import transformers

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=12
    )
    shape = {"block_out_channels": (8, 8), "norm_num_groups": 4}
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            **shape,
        ),
        text_encoder=transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=8,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=12,
                bos_token_id=len(vocab) - 2,
                eos_token_id=len(vocab) - 1,
            )
        ),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=4,
            layers_per_block=1,
            **shape,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder / "pipe")
    return str(folder / "pipe")


@pytest.fixture
def images(tmp_path: Path) -> str:
    (tmp_path / "images").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    return str(tmp_path / "images")


def read(pipe: Any, folder: str) -> list[Any]:
    originals = from_folder(folder, resolution=concept.side_of(pipe), channels=3)
    return [original.image for original in originals]


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
    return {
        f"{name}.{key}": value.clone()
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }


def test_only_the_words_are_learnt(model: str, images: str) -> None:
    pipe = concept.open_pipeline(model, device="cpu")
    before = weights(pipe)
    how = concept.Learning(start="a", num_steps=6, batch=20, learning_rate=1e-2)
    learnt = concept.learn(pipe, read(pipe, images), how)
    after = weights(pipe)
    for name, value in before.items():
        torch.testing.assert_close(after[name][: len(value)], value, rtol=0, atol=0)
    [first] = pipe.tokenizer.encode("a", add_special_tokens=False)
    started = pipe.text_encoder.get_input_embeddings().weight[first]
    assert learnt.words.shape == (NUM_WORDS, 8)
    moved = (learnt.words - started).norm(dim=1)
    assert bool((moved > 1e-3).all()), moved  # 20 noised images a step: every band has its turn
    table = pipe.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(table[learnt.token_ids], learnt.words)


def test_the_command_writes_words_and_a_grid(model: str, images: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    options = ["--steps", "2", "--batch", "2", "--sampler-steps", "2", "--number", "2"]
    options += ["--start", "a", "--device", "cpu", "--prompt", "an {}"]
    command = ["personalise", model, "--images", images, "--out", str(folder), *options]
    run = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "10 words" in run.stdout, run.output
    assert load_file(folder / "words.safetensors")["words"].shape == (NUM_WORDS, 8)
    about = json.loads((folder / "concept.json").read_text())
    assert about["learning"]["prompt"] == "an {}"
    with Image.open(folder / "grid.png") as grid:
        side = 8 * 2  # latents of 8, one halving
        assert grid.size == (2 * (side + 1) + 1, 5 * (side + 1) + 1)
    with pytest.raises(UsageError, match="is not empty"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_what_cannot_work_is_said_before_anything_is_learnt(
    model: str, images: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"has no model_index\.json"):
        concept.open_pipeline(str(tmp_path), device="cpu")
    pipe = concept.open_pipeline(model, device="cpu")
    with pytest.raises(UsageError, match=r"needs one \{\}"):
        concept.learn(pipe, read(pipe, images), concept.Learning(prompt="a photo"))
    with pytest.raises(UsageError, match="tokens of this model; start from one word"):
        concept.learn(pipe, read(pipe, images), concept.Learning(start="object"))
