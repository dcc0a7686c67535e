"""Scores by models of transformers: a classifier's probability, a language model's perplexity.

A model is a folder below one that `--assets` names, as `hf download NAME --local-dir DIR/NAME`
leaves it; its weights, configuration and tokenizer are in the record by their hashes. Texts run in
batches of similar length, on a GPU where there is one. Scores are rounded: a sum's order, and with
it the last digits, differs with what else is in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
DECIMALS = 4  # machines differ in the last bits of a model's output
Floats = npt.NDArray[np.float64]


class _ByModel(Modifier):
    """What scorers by a model share: where it is, how much of a text it reads, batches."""

    model: str = Field(description="a folder of a transformers model, below an --assets folder")
    weights: tuple[str, ...] = Field(
        ("model.safetensors",),
        min_length=1,
        description=f"files of its weights; of a model in parts {INDEX} and every part",
    )
    column: str = Field("score", description="column to write")
    max_tokens: int = Field(512, ge=2, description="only so many leading tokens are read")
    batch_size: int = Field(32, ge=1, description="texts that the model reads at once")
    reasons: ClassVar[tuple[str, ...]] = ()
    _model: Any = PrivateAttr(None)
    _tokenizer: Any = PrivateAttr(None)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {self.column: pa.float64()}

    def assets(self) -> tuple[str, ...]:
        return tuple(f"{self.model}/{file}" for file in (CONFIG, *self.weights, TOKENIZER))

    def needs(self) -> Mapping[str, float]:
        """A GPU, where there are any; processors do the same, far slower."""
        return {"num_gpus": 1}

    def load(self, assets: AssetFolder) -> None:
        import torch
        from tokenizers import Tokenizer

        paths = [assets.path(name) for name in self.assets()]
        if INDEX in self.weights:
            self._check_parts(assets.path(f"{self.model}/{INDEX}"))
        self._tokenizer = Tokenizer.from_file(str(paths[-1]))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = self._open(str(paths[0].parent)).to(device).eval()
        self._check()

    def _check_parts(self, index: Path) -> None:
        """ValueError if the index names a part that the record would not."""
        try:
            parts = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is not an index of safetensors files: {error!r}") from None
        if missing := sorted(parts - set(self.weights)):
            raise ValueError(
                f"{index} names {', '.join(missing)}; list every part in `weights`, so that the "
                "record holds it"
            )

    def _open(self, folder: str) -> Any:
        """The model in a folder."""
        raise NotImplementedError

    def _check(self) -> None:
        """ValueError for a model that cannot score."""

    def _batch_scores(self, ids: Any, mask: Any) -> Any:
        """One number a row of tokens (rows, length); `mask` is 0 where there is none."""
        raise NotImplementedError

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        import torch

        texts = batch.text.to_pylist()
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        scores = np.full(len(texts), np.nan)
        for rows in batches([len(ids) for ids in tokens], self.batch_size, least=self._least()):
            length = len(tokens[rows[-1]])
            ids = np.zeros((len(rows), length), np.int64)
            mask = np.zeros((len(rows), length), np.int64)
            for position, row in enumerate(rows):
                ids[position, : len(tokens[row])] = tokens[row]
                mask[position, : len(tokens[row])] = 1
            device = self._model.device
            with torch.inference_mode():
                values = self._batch_scores(
                    torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
                )
            scores[rows] = values.double().cpu().numpy()
        missing = ~np.isfinite(scores)
        return {
            self.column: pa.array(np.round(np.where(missing, 0, scores), DECIMALS), mask=missing)
        }

    def _least(self) -> int:
        """Tokens that a text needs for a score."""
        return 1


class ModelScore(_ByModel, name="model_score"):
    """Add the score of a text classifier of transformers, as FineWeb-Edu's. (Penedo et al. 2024)

    A model of one output gives that number, one of several the probability of `label`. A text
    without tokens has no score (null).
    """

    label: int | None = Field(None, ge=0, description="the output that counts; null: the last")

    def _open(self, folder: str) -> Any:
        from transformers import AutoModelForSequenceClassification

        return _whole(AutoModelForSequenceClassification, folder)

    def _check(self) -> None:
        outputs = self._model.config.num_labels
        if self.label is not None and self.label >= outputs:
            raise ValueError(f"label: {self.label}, but {self.model} has {outputs} outputs, from 0")

    def _batch_scores(self, ids: Any, mask: Any) -> Any:
        logits = self._model(input_ids=ids, attention_mask=mask).logits.float()
        if logits.shape[1] == 1:
            return logits[:, 0]
        return logits.softmax(dim=1)[:, -1 if self.label is None else self.label]


class ModelPerplexity(_ByModel, name="model_perplexity"):
    """Add the perplexity of a text under a causal language model of transformers.

    exp of the mean negative log-likelihood of the tokens behind the first. A text of fewer than two
    tokens has none (null).
    """

    column: str = Field("perplexity", description="column to write")

    def _open(self, folder: str) -> Any:
        from transformers import AutoModelForCausalLM

        return _whole(AutoModelForCausalLM, folder)

    def _least(self) -> int:
        return 2

    def _batch_scores(self, ids: Any, mask: Any) -> Any:
        import torch

        logits = self._model(input_ids=ids, attention_mask=mask).logits.float()
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none"
        )
        there = mask[:, 1:].float()
        return ((losses * there).sum(dim=1) / there.sum(dim=1)).exp()


def _whole(kind: Any, folder: str) -> Any:
    """The model of a folder. ValueError where weights are missing: transformers makes them up."""
    model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the weights of a {type(model).__name__}, as "
            f"{missing[0]!r}; random ones score at random: give a model that was trained"
        )
    return model


def batches(lengths: Sequence[int], size: int, *, least: int) -> Iterator[list[int]]:
    """Rows of at least `least` tokens by length, at most `size` at once, the longest last."""
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable")
    rows = [row for row in order.tolist() if lengths[row] >= least]
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]
