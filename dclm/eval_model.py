"""A trained OpenLM checkpoint behind the language-model protocol of `evals`.

The fast path computes a question's context once and runs its options on the key/value cache,
multiplies only scored positions with the head, and batches by length with a budget of tokens. The
exact path (`exact=True`) runs every option whole, alone and through the full head; it is what the
fast path is tested against, to 1e-4 in mean cross-entropy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from dclm.packing.tokenizer import find
from dclm.recipe import ModelConfig
from dclm.training.export import model_of_state, read_state
from dclm.training.model import KeyValueCache, OpenLM, load_state_dict
from evals.models import Floats, Ids, ModelError, Query, TokenizerFile, TokenScores
from evals.tasks import EvalError
from evals.text.batching import length_batches, pad_right
from leaderboard.benchmark import INTERMEDIATE
from pipelines.records import ModelRecord, digest, parse_record, sha256_file

Precision = Literal["fp32", "bf16"]

LOGIT_VALUES = 1 << 24  # logits held at a time: 64 MB in float32
CPU_TOKENS = 2048  # larger batches no longer raise the speed of a CPU
GPU_TOKENS = 1 << 17
CPU_CACHE_BYTES = 1 << 29  # for keys and values of the options that run together
GPU_CACHE_BYTES = 8 << 30


class OpenLMScorer:
    """`evals.models.LanguageModel` over an OpenLM; see there for the methods."""

    max_length: int | None = None  # rotary positions have no end

    def __init__(
        self,
        model: OpenLM,
        tokenizer: Tokenizer,
        *,
        id: str,
        document_start: int,
        device: str = "cpu",
        precision: Precision = "fp32",
        exact: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        self.id = id
        self.vocab_size = model.config.vocab_size
        self.document_start = document_start
        self.settings: dict[str, Any] = {
            "precision": precision,
            "path": "exact" if exact else "fast",
        }
        self._exact = exact
        self._device = torch.device(device)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._model = model.to(self._device, dtype).eval()
        self._tokenizer = tokenizer
        self._encoder = TokenizerFile(tokenizer)
        on_cpu = self._device.type == "cpu"
        cache_bytes = CPU_CACHE_BYTES if on_cpu else GPU_CACHE_BYTES
        bytes_per_token = 2 * model.config.num_layers * model.config.dim * dtype.itemsize
        self._max_cached = batch_tokens or cache_bytes // bytes_per_token
        default_tokens = CPU_TOKENS if on_cpu else min(GPU_TOKENS, self._max_cached)
        self._max_tokens = batch_tokens or default_tokens
        self._arguments: tuple[Any, ...] | None = None

    def __reduce__(self) -> Any:
        """A worker process loads the checkpoint itself, once."""
        if self._arguments is None:
            return super().__reduce__()
        return _load, self._arguments

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.tokenise(texts)

    def detokenise(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        if self._exact:
            return [[self._score_alone(q.context, c) for c in q.continuations] for q in queries]
        alone = [i for i, query in enumerate(queries) if len(query.continuations) == 1]
        shared = [i for i, query in enumerate(queries) if len(query.continuations) > 1]
        results: dict[int, list[TokenScores]] = {}
        pairs = [(queries[i].context, queries[i].continuations[0]) for i in alone]
        for i, scores in zip(alone, self._score_rows(pairs), strict=True):
            results[i] = [scores]
        lengths = [
            len(queries[i].context) + sum(len(c) for c in queries[i].continuations) for i in shared
        ]
        for group in length_batches(lengths, max_tokens=self._max_tokens):
            chosen = [shared[index] for index in group]
            results.update(
                zip(chosen, self._score_shared([queries[i] for i in chosen]), strict=True)
            )
        return [results[i] for i in range(len(queries))]

    def _score_alone(self, context: Ids, continuation: Ids) -> TokenScores:
        ids = torch.from_numpy(np.concatenate([context, continuation]).astype(np.int64))
        ids = ids.to(self._device)
        logits = self._model(ids[None, :-1])[0, len(context) - 1 :]
        losses = torch.nn.functional.cross_entropy(logits, ids[len(context) :], reduction="none")
        return _as_scores(losses, logits.argmax(-1))

    def _score_rows(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """Each row whole, in batches; only scored positions meet the head."""
        results: dict[int, TokenScores] = {}
        lengths = [len(context) + len(answer) - 1 for context, answer in pairs]
        for group in length_batches(lengths, max_tokens=self._max_tokens):
            rows = [np.concatenate(pairs[i])[:-1] for i in group]
            hidden = self._model.hidden(self._tensor(pad_right(rows)))
            spans = [slice(len(pairs[i][0]) - 1, lengths[i]) for i in group]
            states = torch.cat([hidden[index, span] for index, span in enumerate(spans)])
            answers = [pairs[i][1] for i in group]
            results.update(zip(group, self._read_off(states, answers), strict=True))
        return [results[i] for i in range(len(pairs))]

    def _score_shared(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        """Contexts once, right-padded; then all continuations on the cached keys and values."""
        contexts = [query.context for query in queries]
        sizes = torch.tensor([len(context) for context in contexts], device=self._device)
        cache = KeyValueCache()
        hidden = self._model.hidden(self._tensor(pad_right(contexts)), cache)
        last = hidden[torch.arange(len(contexts), device=self._device), sizes - 1]
        owners = [index for index, query in enumerate(queries) for _ in query.continuations]
        answers = [answer for query in queries for answer in query.continuations]
        states = [last[owner][None] for owner in owners]
        longer = [index for index, answer in enumerate(answers) if len(answer) > 1]
        longer.sort(key=lambda index: len(answers[index]))  # little padding within a batch
        room = max(1, self._max_cached // (cache.length + max(map(len, answers))))
        for start in range(0, len(longer), room):
            chosen = longer[start : start + room]
            rows = [answers[index][:-1] for index in chosen]
            after = self._continue(cache, [owners[index] for index in chosen], rows, sizes)
            for line, index in enumerate(chosen):
                own = after[line, : len(rows[line])]
                states[index] = torch.cat([states[index], own])
        scores = iter(self._read_off(torch.cat(states), answers))
        return [[next(scores) for _ in query.continuations] for query in queries]

    def _continue(
        self, cache: KeyValueCache, owners: Sequence[int], rows: Sequence[Ids], sizes: Tensor
    ) -> Tensor:
        """States of `rows` after the contexts of their owners, (rows, longest row, dim)."""
        tokens = self._tensor(pad_right(rows))
        if sizes.numel() == 1:
            return self._model.hidden(tokens, cache.expand(len(rows)))
        owner = torch.tensor(owners, device=self._device)
        offsets = torch.arange(tokens.shape[1], device=self._device)
        is_context = torch.arange(cache.length, device=self._device) < sizes[owner][:, None]
        is_given = torch.ones_like(tokens, dtype=torch.bool)
        return self._model.hidden(
            tokens,
            cache.select(owner),
            positions=sizes[owner][:, None] + offsets,
            key_mask=torch.cat([is_context, is_given], dim=1),
        )

    def _read_off(self, states: Tensor, answers: Sequence[Ids]) -> list[TokenScores]:
        """Loss of every answer token, and the favourite, from the state before it."""
        targets = self._tensor(np.concatenate(answers))
        losses, greedy = [], []
        rows = max(1, LOGIT_VALUES // self.vocab_size)
        for start in range(0, len(targets), rows):
            logits = self._model.head(states[start : start + rows])
            target = logits.gather(-1, targets[start : start + rows, None])[:, 0]
            largest, favourite = logits.max(-1)
            total = logits.sub_(largest[:, None]).exp_().sum(-1).log_()
            losses.append(total + largest - target)
            greedy.append(favourite)
        every = _as_scores(torch.cat(losses), torch.cat(greedy))
        ends = np.cumsum([len(answer) for answer in answers])[:-1]
        pairs = zip(np.split(every.losses, ends), np.split(every.greedy, ends), strict=True)
        return [TokenScores(*pair) for pair in pairs]

    @torch.inference_mode()
    def next_losses(self, contexts: Sequence[Ids]) -> Floats:
        """Minus the logarithm of the softmax over all ids behind each context."""
        rows = []
        for context in contexts:
            hidden = self._model.hidden(self._tensor(context[None]))[0, -1:]
            rows.append(-self._model.head(hidden).float().log_softmax(-1)[0].cpu().numpy())
        return np.stack(rows)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64, copy=False)).to(self._device)

    @torch.inference_mode()
    def generate(
        self, contexts: Sequence[Ids], *, max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        results: dict[int, list[int]] = {}
        lengths = [len(context) + max_new_tokens for context in contexts]
        max_tokens = 1 if self._exact else self._max_tokens
        for group in length_batches(lengths, max_tokens=max_tokens):
            texts = self._generate([contexts[i] for i in group], max_new_tokens, is_done)
            results.update(zip(group, texts, strict=True))
        return [results[i] for i in range(len(contexts))]

    def _generate(
        self, contexts: Sequence[Ids], max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        outputs: list[list[int]] = [[] for _ in contexts]
        active = list(range(len(contexts)))
        sizes = torch.tensor([len(context) for context in contexts], device=self._device)
        cache = KeyValueCache()
        hidden = self._model.hidden(self._tensor(pad_right(contexts)), cache)
        state = hidden[torch.arange(len(contexts), device=self._device), sizes - 1]
        seen = torch.arange(cache.length, device=self._device) < sizes[:, None]
        for count in range(max_new_tokens):
            logits = self._model.head(state)
            if not bool(torch.isfinite(logits).all()):
                raise ModelError(
                    "the model gives logits that are not numbers while it generates; its weights "
                    "or its precision are broken"
                )
            chosen = logits.argmax(-1)
            keep = []
            for line, (index, token) in enumerate(zip(active, chosen.tolist(), strict=True)):
                outputs[index].append(token)
                ended = token == self.document_start or is_done(self.detokenise(outputs[index]))
                if not ended:
                    keep.append(line)
            if not keep or count + 1 == max_new_tokens:
                break
            if len(keep) < len(active):
                lines = torch.tensor(keep, device=self._device)
                active = [active[line] for line in keep]
                cache, sizes, seen = cache.select(lines), sizes[lines], seen[lines]
                chosen = chosen[lines]
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
            state = self._model.hidden(
                chosen[:, None], cache, positions=(sizes + count)[:, None], key_mask=seen
            )[:, 0]
        return outputs


def _as_scores(losses: Tensor, greedy: Tensor) -> TokenScores:
    return TokenScores(
        losses.float().cpu().numpy(), greedy.cpu().numpy().astype(np.int32, copy=False)
    )


def load(
    model: str,
    *,
    device: str | None = None,
    precision: Precision = "fp32",
    exact: bool = False,
    checkpoint: str | None = None,
    batch_tokens: int | None = None,
) -> OpenLMScorer:
    """The scorer of a trained model's folder, on the GPU if there is one.

    The folder holds `record.json`, `checkpoint.safetensors`, `model.json` (the shape and the name
    of the tokenizer file) and that tokenizer file. `checkpoint` names weights on the way, in its
    folder `intermediate`. EvalError names what is missing or unfit.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _load(str(Path(model).absolute()), where, precision, exact, checkpoint, batch_tokens)


@lru_cache(maxsize=1)
def _load(
    folder: str,
    device: str,
    precision: Precision,
    exact: bool,
    checkpoint: str | None,
    batch_tokens: int | None,
) -> OpenLMScorer:
    path = Path(folder)
    if not (path / "record.json").is_file():
        scorer = _load_open_lm(path, device, precision, exact, batch_tokens)
        scorer._arguments = (folder, device, precision, exact, checkpoint, batch_tokens)
        return scorer
    record = parse_record(_bytes(path / "record.json"), source=str(path / "record.json"))
    if not isinstance(record, ModelRecord):
        raise EvalError(f"{path} holds a {record.kind} record, not a model; name a model's folder")
    described = orjson.loads(_bytes(path / "model.json"))
    try:
        config = ModelConfig.model_validate(described["model"])
        tokenizer_file = path / described["tokenizer"]
        document_start = int(described["end_of_text"])
    except (KeyError, ValidationError) as error:
        raise EvalError(f"{path / 'model.json'} does not describe a model: {error}") from None
    file = "checkpoint.safetensors"
    if checkpoint is not None:
        file = f"{INTERMEDIATE}/{checkpoint}.safetensors"
    scorer = _scorer(
        config,
        path / file,
        tokenizer_file,
        id=record.id if checkpoint is None else digest([record.id, checkpoint]),
        document_start=document_start,
        device=device,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )
    scorer._arguments = (folder, device, precision, exact, checkpoint, batch_tokens)
    return scorer


def _load_open_lm(
    path: Path, device: str, precision: Precision, exact: bool, batch_tokens: int | None
) -> OpenLMScorer:
    """A checkpoint of open_lm itself, in a folder.

    Weights (`.pt` or `.safetensors`; of several epochs the last) next to the model's JSON file
    (`hidden_dim`, `n_layers`, ...), and `tokenizer.json` where it is not gpt-neox-20b's.
    `params.txt`, where it is there, says the options of the command line.
    """
    weights = [*path.glob("*.safetensors"), *path.glob("*.pt"), *path.glob("checkpoints/*.pt")]
    described = [file for file in sorted(path.glob("*.json")) if _is_model_file(file)]
    if any("d_model" in _values_of(file) for file in path.glob("*.json")):
        raise EvalError(f"{path} holds a Mamba model of open_lm; only its decoders are supported")
    if not weights or len(described) != 1:
        raise EvalError(
            f"{path} has no record.json, so it should be a checkpoint of open_lm: weights "
            "(*.safetensors or *.pt) beside one JSON file of the model (hidden_dim, n_layers, "
            f"n_heads); found {len(weights)} and {len(described)} of them"
        )
    chosen = max(weights, key=_epoch_of)
    # What the model's file says counts, whatever the command line of open_lm was.
    values = _command_line_of(path / "params.txt") | orjson.loads(described[0].read_bytes())
    own = path / "tokenizer.json"
    try:
        state = read_state(chosen)
        # Norms without a gain leave no trace in the weights; DCLM's models have them on q and k.
        without_trace = values.get("model_norm") == "no_wb_layer_norm"
        has_qk_norm = without_trace or any(".q_norm." in name for name in state)
        config = reference_config(values, qk_norm=has_qk_norm)
        model = model_of_state(state, config)
        tokenizer_file = find(str(own) if own.is_file() else "gpt-neox-20b")
    except ValueError as error:
        raise EvalError(str(error)) from None
    return OpenLMScorer(
        model.float(),
        Tokenizer.from_file(str(tokenizer_file)),
        id=sha256_file(chosen)[:32],
        document_start=0,
        device=device,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )


def _is_model_file(path: Path) -> bool:
    return "hidden_dim" in _values_of(path)


def _values_of(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty for any other file."""
    try:
        values = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}


def _epoch_of(path: Path) -> tuple[int, str]:
    """The number in `epoch_5.pt`: of several checkpoints the last is the model."""
    digits = re.search(r"(\d+)\D*$", path.stem)
    return (int(digits[1]) if digits else -1, path.name)


def _command_line_of(path: Path) -> dict[str, Any]:
    """The model's options among the lines `name: value` of open_lm's params.txt."""
    if not path.is_file():
        return {}
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    values = {name.strip(): value.strip() for name, _, value in lines}
    options: dict[str, Any] = {}
    for name, value in values.items():
        if name in COMMAND_LINE or name.startswith(("attn_", "moe_")):
            options[name] = _plain_value(value)
    return {name: value for name, value in options.items() if value is not None}


def _plain_value(text: str) -> Any:
    """A value as open_lm writes it into params.txt: Python's spelling of it."""
    known = {"True": True, "False": False, "None": None, "": None}
    if text in known:
        return known[text]
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


def load_openlm(
    config: ModelConfig,
    weights: Path,
    tokenizer: Path,
    *,
    document_start: int = 0,
    device: str = "cpu",
    precision: Precision = "fp32",
    exact: bool = False,
    batch_tokens: int | None = None,
) -> OpenLMScorer:
    """The scorer of a bare OpenLM checkpoint: its shape, a safetensors file, a tokenizer.json.

    Its id is the sha256 of the weights, since there is no record.
    """
    return _scorer(
        config,
        weights,
        tokenizer,
        id=sha256_file(weights)[:32],
        document_start=document_start,
        device=device,
        precision=precision,
        exact=exact,
        batch_tokens=batch_tokens,
    )


OPENLM_NAMES = {  # of open_lm's model files and arguments, to ours
    "hidden_dim": "dim",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "model_norm": "norm",
    "ffn_type": "ffn",
    "positional_embedding_type": "rotary",
    "apply_qk_norm": "qk_norm",
}
OPENLM_SAME = (
    *("seq_len", "vocab_size", "post_embed_norm", "weight_tying", "norm", "norm_eps", "qk_norm"),
)
COMMAND_LINE = ("model_norm", "ffn_type", "positional_embedding_type", "qk_norm")
SOFTMAX = ("auto", "xformers_attn", "xformers_attn_variable_length", "torch_attn")
"""The same attention by other kernels; lengths vary in training alone, between documents."""
OPENLM_FFNS = {"swiglu_torch": "swiglu"}  # the same map, stored alike


def reference_config(values: dict[str, Any], *, qk_norm: bool = True) -> ModelConfig:
    """A ModelConfig from the fields of an open_lm model file (hidden_dim, n_layers, ...).

    `qk_norm` where the file does not say. EvalError names an option that is not supported.
    """
    fields: dict[str, Any] = {"qk_norm": qk_norm}
    if values.get("rotary_old"):  # what older files call it
        fields["rotary"] = "head_rotary"
    for name, value in values.items():
        if name in OPENLM_NAMES:
            fields[OPENLM_NAMES[name]] = value
        elif name in OPENLM_SAME:
            fields[name] = value
        elif not _changes_nothing(name, value, values):
            raise EvalError(
                f"the model's option {name}: {value!r} is not supported; supported are "
                f"{', '.join(sorted((*OPENLM_NAMES, *OPENLM_SAME)))}, and softmax attention"
            )
    fields["ffn"] = OPENLM_FFNS.get(fields.get("ffn", "swiglu"), fields.get("ffn", "swiglu"))
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "model"
        raise EvalError(f"the model's option {where}: {first['msg']}") from None


def _changes_nothing(name: str, value: Any, values: Mapping[str, Any]) -> bool:
    """Whether an option has the value at which the model is the one that is built here."""
    if name == "attn_name":
        return value in SOFTMAX or (value == "custom_attn" and _is_softmax(values))
    if name in ("attn_activation", "attn_seq_scalar", "attn_seq_scalar_alpha"):
        return True  # read by `custom_attn` alone, which the option above decides
    if name == "rotary_old":
        return True
    if name.startswith("moe_"):
        return not value or name != "moe_freq"
    return value is None or name in ("params", "name", "model", "tokens")


def _is_softmax(values: Mapping[str, Any]) -> bool:
    """Whether `custom_attn` is softmax attention: its factor is length ** -alpha, or 1."""
    is_one = values.get("attn_seq_scalar") == "none" or values.get("attn_seq_scalar_alpha") == 0
    return values.get("attn_activation") == "softmax" and is_one


def _scorer(config: ModelConfig, weights: Path, tokenizer: Path, **named: Any) -> OpenLMScorer:
    for path in (weights, tokenizer):
        if not path.is_file():
            raise EvalError(f"there is no file {path}; name the folder of a finished training")
    with torch.device("meta"):
        model = OpenLM(config)
    model = model.to_empty(device="cpu")
    state = {name: tensor.float() for name, tensor in load_file(weights).items()}
    load_state_dict(model, state)
    if config.rotary in ("llama_rotary", "none"):  # its table is not in the state dict
        for layer in model.layers:
            layer.attention.pos_embed.inv_freq = layer.attention.pos_embed.frequencies()
    return OpenLMScorer(model, Tokenizer.from_file(str(tokenizer)), **named)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise EvalError(
            f"there is no file {path}; name the folder of a finished training"
        ) from None
