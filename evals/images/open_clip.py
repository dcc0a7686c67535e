"""open_clip models as image-text models of an evaluation."""

from __future__ import annotations

import difflib
import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.images.short_texts import encode_text
from evals.images.transforms import ImageTransform
from evals.models import Floats, ImageError
from pipelines.errors import DataError
from pipelines.images.decode import DECODE_ERRORS, fault_of

BATCH, TEXT_BATCH = 64, 256  # images and texts encoded at a time
AHEAD = 3  # batches decoded in addition to one per thread, so that encoding does not wait


class OpenClip:
    """An ImageTextModel for an open_clip model; equal and hashed by the model's id."""

    def __init__(
        self,
        model: Any,
        transform: Any,
        tokenizer: Any,
        *,
        id: str,
        settings: dict[str, Any],
        device: str,
        reload: tuple[Any, ...],
    ) -> None:
        self.id, self.settings = id, settings
        self._model = model.to(device).eval()
        self._transform = ImageTransform(transform)
        self._tokenizer, self._device = tokenizer, device
        self._threads = max(1, min(16, torch.get_num_threads(), os.cpu_count() or 1))
        self._reload = reload

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reload

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OpenClip) and other.id == self.id

    @torch.inference_mode()
    def encode_images(self, images: Iterable[bytes]) -> Floats:
        parts = [
            self._model.encode_image(batch.to(self._device)).float().cpu().numpy()
            for batch in self._batches(iter(images))
        ]
        if not parts:
            raise DataError("there are no images to encode")
        return np.concatenate(parts)

    def _batches(self, images: Iterator[bytes]) -> Iterator[torch.Tensor]:
        """Decoded batches in order; threads decode a few batches ahead."""
        waiting: list[Future[list[torch.Tensor]]] = []
        with ThreadPoolExecutor(self._threads) as pool:
            first = 0
            while True:
                while len(waiting) < self._threads + AHEAD:
                    part = list(islice(images, BATCH))
                    if not part:
                        break
                    waiting.append(pool.submit(self._decode, part, first))
                    first += len(part)
                if not waiting:
                    return
                yield torch.stack(waiting.pop(0).result())

    def _decode(self, images: Sequence[bytes], first: int) -> list[torch.Tensor]:
        tensors = []
        for number, data in enumerate(images):
            try:
                tensors.append(self._transform.of_bytes(data))
            except DECODE_ERRORS as error:
                raise ImageError(first + number, fault_of(error)) from None
        return tensors

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Floats:
        parts = []
        # Sorted by length: a batch is computed at the length of its longest text.
        order = np.argsort([len(text) for text in texts], kind="stable")
        texts = [texts[index] for index in order.tolist()]
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self._tokenizer(list(texts[start : start + TEXT_BATCH])).to(self._device)
            features = encode_text(type(self._model).encode_text, self._model, tokens)
            parts.append(features.float().cpu().numpy())
        sorted_features: Floats = np.concatenate(parts)
        return sorted_features[np.argsort(order, kind="stable")]


def load_open_clip(
    name: str,
    *,
    pretrained: str | None,
    device: str | None = None,
    seed: int = 0,
    configs: Path | None = None,
) -> OpenClip:
    """An open_clip model by name; without `pretrained`, random weights from `seed` (for tests).

    `pretrained` is a tag or a file of weights; `configs` a folder of further model configurations.
    DataError for an unknown model or tag, with suggestions.
    """
    import open_clip

    if configs is not None:
        open_clip.add_model_config(configs)
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise DataError(f"open_clip has no model {name!r}{hint}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and not Path(pretrained).is_file() and pretrained not in tags:
        raise DataError(
            f"open_clip has no weights {pretrained!r} of {name}; it has "
            f"{', '.join(tags) or 'none'}, or give a file"
        )
    torch.manual_seed(seed)
    made, _, transform = open_clip.create_model_and_transforms(
        name, pretrained=pretrained, force_quick_gelu=trained_with_quick_gelu(name, pretrained)
    )
    chosen = device_of(device)
    hashed = hashlib.sha256()
    for key, value in sorted(made.state_dict().items()):
        hashed.update(key.encode())
        hashed.update(value.contiguous().numpy().tobytes())
    settings = {
        "model": name,
        "pretrained": pretrained,
        "device": chosen,
        "precision": "fp32",
        "activation": activation_of(made),
    }
    return OpenClip(
        made,
        transform,
        open_clip.get_tokenizer(name),
        id=hashed.hexdigest()[:32],
        settings=settings,
        device=chosen,
        reload=(_reload_open_clip, (name, pretrained, device, seed, configs)),
    )


def trained_with_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether open_clip's list says that these weights were trained with QuickGELU.

    OpenAI's and some others were; open_clip itself only warns and runs them with GELU. For a file
    of weights this is unknown: use the model name with -quickgelu if it needs it.
    """
    from open_clip.pretrained import get_pretrained_cfg

    if not pretrained or Path(pretrained).is_file():
        return False
    return bool((get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu", False))


def activation_of(model: Any) -> str:
    """The activations of a model's towers, as named in the record."""
    from open_clip.transformer import QuickGELU

    kinds = {type(module) for module in model.modules()}
    names = [("quick_gelu", QuickGELU), ("gelu", torch.nn.GELU)]
    return "+".join(name for name, kind in names if kind in kinds) or "other"


@lru_cache(maxsize=1)
def _reload_open_clip(
    name: str, pretrained: str | None, device: str | None, seed: int, configs: Path | None
) -> OpenClip:
    return load_open_clip(name, pretrained=pretrained, device=device, seed=seed, configs=configs)


def device_of(device: str | None) -> str:
    """The requested device; else a GPU, by the number of the worker process; else the CPU."""
    if device is not None or not torch.cuda.is_available():
        return device or "cpu"
    worker = multiprocessing.current_process()._identity
    if not worker:
        return "cuda"
    return f"cuda:{(worker[0] - 1) % torch.cuda.device_count()}"
