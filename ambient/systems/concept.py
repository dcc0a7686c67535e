"""A concept of a few images, as pseudo-words of a text-to-image pipeline of diffusers.

The pipeline is frozen; each of ten bands of noise levels has a word of its own, whose embedding is
learnt from the loss of the frozen model on the concept's images (see `pseudo_words`, Daras and
Dimakis 2022). Only these rows of the table of embeddings have an optimizer, without weight decay:
decay would move every other word at every step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch
from torch import Tensor

from ambient.systems.pseudo_words import NUM_WORDS, band, chosen, step_callback
from evals.models import Floats
from pipelines.errors import DataError, UsageError
from pipelines.execution.progress import step
from pipelines.records import Frozen

RESOLUTIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""0 is the concept itself; .8 keeps outline and colours."""


class Learning(Frozen):
    """How the words are learnt; the defaults are those of the paper's Stable Diffusion runs."""

    prompt: str = "a photo of {}"
    start: str = "object"
    num_steps: int = 3000
    batch: int = 4
    learning_rate: float = 5e-3
    seed: int = 0


@dataclass
class Concept:
    """A pipeline whose tokenizer and text encoder have the learnt words."""

    pipe: Any
    tokens: list[str]
    words: Tensor
    losses: list[float]
    images_sha256: str

    @property
    def token_ids(self) -> list[int]:
        ids: list[int] = self.pipe.tokenizer.convert_tokens_to_ids(self.tokens)
        return ids


def open_pipeline(model: str, *, device: str | None) -> Any:
    """A text-to-image pipeline from a local folder. DataError if it is not one."""
    from diffusers import StableDiffusionPipeline

    if not (Path(model) / "model_index.json").is_file():
        raise DataError(
            f"{model} has no model_index.json: give a folder that diffusers' save_pretrained wrote"
        )
    try:
        kind: Any = StableDiffusionPipeline
        pipe = kind.from_pretrained(
            model, safety_checker=None, requires_safety_checker=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{model} is no pipeline of Stable Diffusion: {error}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def side_of(pipe: Any) -> int:
    """Pixels of the side of an image."""
    return int(pipe.unet.config.sample_size * pipe.vae_scale_factor)


def learn(pipe: Any, images: Sequence[Floats], how: Learning) -> Concept:
    """Learn the words of images (3, side, side) in [-1, 1]. UsageError: a prompt without `{}`."""
    if how.prompt.count("{}") != 1:
        raise UsageError(f"the prompt {how.prompt!r} needs one {{}} where the word is")
    latents = _latents(pipe, images)
    tokens, words = _new_words(pipe, how.start)
    ids = torch.tensor(pipe.tokenizer.convert_tokens_to_ids(tokens), device=words.device)
    prompts = _tokenized(pipe, [how.prompt.format(token) for token in tokens])
    noised = _training_scheduler(pipe)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    table = pipe.text_encoder.get_input_embeddings().weight
    table.requires_grad_(True)
    optimizer = torch.optim.Adam([words], lr=how.learning_rate)
    generator = torch.Generator().manual_seed(how.seed)
    num_times, losses = noised.config.num_train_timesteps, []
    with step("learn words", total=how.num_steps, unit="steps") as progress:
        for _ in range(how.num_steps):
            rows = torch.randint(len(latents), (how.batch,), generator=generator)
            times = torch.randint(num_times, (how.batch,), generator=generator)
            clean = latents[rows]
            noise = torch.randn(clean.shape, generator=generator).to(clean)
            said = prompts[band(times / num_times)]
            noisy = noised.add_noise(clean, noise, times.to(clean.device))
            hidden = pipe.text_encoder(said)[0]
            estimate = pipe.unet(noisy, times.to(clean.device), encoder_hidden_states=hidden).sample
            target = _target(noised, clean, noise, times.to(clean.device))
            loss = (estimate.float() - target.float()).pow(2).mean()
            (gradient,) = torch.autograd.grad(loss, table)
            words.grad = gradient[ids].float()
            optimizer.step()
            with torch.no_grad():
                table[ids] = words.to(table.dtype)
            losses.append(float(loss.detach()))
            progress.advance(1, extra=f"loss {losses[-1]:.3f}")
    table.requires_grad_(False)
    state = hashlib.sha256(b"".join(np.ascontiguousarray(image).tobytes() for image in images))
    return Concept(pipe, tokens, words.detach(), losses, state.hexdigest())


def _latents(pipe: Any, images: Sequence[Floats]) -> Tensor:
    """Images as latents (n, c, h, w), the mode of the encoder's distribution."""
    rows = []
    for image in images:
        pixels = torch.from_numpy(image)[None].to(pipe.vae.device, pipe.vae.dtype)
        with torch.no_grad():
            rows.append(pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor)
    return torch.cat(rows)


def _new_words(pipe: Any, start: str) -> tuple[list[str], Tensor]:
    """Tokens of their own, whose embeddings begin as that of a known word, (words, dim) float32."""
    tokens = [f"<concept-{number}>" for number in range(NUM_WORDS)]
    known = pipe.tokenizer.encode(start, add_special_tokens=False)
    if len(known) != 1:
        raise UsageError(f"{start!r} is {len(known)} tokens of this model; start from one word")
    if pipe.tokenizer.add_tokens(tokens) != NUM_WORDS:
        raise UsageError(f"the tokenizer already knows {tokens[0]}: use the pipeline as it was")
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    table = pipe.text_encoder.get_input_embeddings().weight
    words = table[known[0]].detach().float().repeat(NUM_WORDS, 1)
    with torch.no_grad():
        table[pipe.tokenizer.convert_tokens_to_ids(tokens)] = words.to(table.dtype)
    return tokens, words.requires_grad_()


def _tokenized(pipe: Any, prompts: list[str]) -> Tensor:
    ids: Tensor = pipe.tokenizer(
        prompts,
        padding="max_length",
        max_length=pipe.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids.to(pipe.text_encoder.device)


def _training_scheduler(pipe: Any) -> Any:
    """The forward process of the model, independent of the pipeline's sampler."""
    from diffusers import DDPMScheduler

    kind: Any = DDPMScheduler
    scheduler = kind.from_config(pipe.scheduler.config)
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise DataError(f"a model that predicts {scheduler.config.prediction_type} is not known")
    return scheduler


def _target(scheduler: Any, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    if scheduler.config.prediction_type == "epsilon":
        return noise
    velocity: Tensor = scheduler.get_velocity(clean, noise, times)
    return velocity


def draw(
    concept: Concept, prompt: str, *, number: int, num_steps: int, guidance: float, seed: int
) -> npt.NDArray[np.float32]:
    """Images of each resolution, (resolutions x number, 3, h, w) in [-1, 1], of equal noise."""
    pipe = concept.pipe
    prompts = _tokenized(pipe, [prompt.format(token) for token in concept.tokens])
    with torch.no_grad():
        embeddings = torch.stack([pipe.text_encoder(row[None])[0] for row in prompts])
    num_times = pipe.scheduler.config.num_train_timesteps
    result = []
    for resolution in RESOLUTIONS:
        callback = step_callback(
            embeddings, num_train_timesteps=num_times, resolution=resolution, how="full"
        )
        first = chosen(embeddings.flatten(1), torch.ones(1), resolution=resolution, how="full")
        images = pipe(
            prompt_embeds=first.reshape(embeddings.shape[1:]).expand(number, -1, -1),
            negative_prompt_embeds=_empty(pipe).expand(number, -1, -1),
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            callback_on_step_end=callback,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        ).images
        result.append(images.transpose(0, 3, 1, 2) * 2 - 1)
    return np.concatenate(result).astype(np.float32)


def save(concept: Concept, folder: Path, how: Learning, *, model: str) -> None:
    """Write `words.safetensors`, one row per band from detail to outline, and `concept.json`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    words = {"words": concept.words.cpu().contiguous()}
    save_file(words, folder / "words.safetensors", {"tokens": " ".join(concept.tokens)})
    tenth = max(1, len(concept.losses) // 10)
    about = {
        "model": model,
        "images_sha256": concept.images_sha256,
        "tokens": concept.tokens,
        "learning": how.model_dump(mode="json"),
        "loss_first_tenth": float(np.mean(concept.losses[:tenth])),
        "loss_last_tenth": float(np.mean(concept.losses[-tenth:])),
    }
    (folder / "concept.json").write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))


def _empty(pipe: Any) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = pipe.text_encoder(_tokenized(pipe, [""]))[0]
    return hidden
