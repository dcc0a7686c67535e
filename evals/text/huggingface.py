"""Any Hugging Face causal language model behind the language-model protocol.

The fast path computes a question's context once, repeats its cache for the options, and asks the
model for the logits of scored positions only, where the model's own `forward` offers that. Models
with another kind of cache (hybrid and recurrent ones) are scored row by row, and those that read
their padding generate one prompt at a time; the record says so. The exact path runs every option
whole and alone.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from evals.models import Floats, Ids, Query, TokenScores
from evals.tasks import EvalError
from evals.text.batching import length_batches, pad_right

CPU_TOKENS = 2048
GPU_TOKENS = 1 << 15


class HuggingFaceLM:
    """`evals.models.LanguageModel` over a model and a tokenizer of transformers."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        id: str | None = None,
        exact: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._exact = exact
        self._device = model.device
        on_cpu = self._device.type == "cpu"
        self._max_tokens = batch_tokens or (CPU_TOKENS if on_cpu else GPU_TOKENS)
        self._check_causal()
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._shares = self._can_share()
        self.id = id or model_digest(model, tokenizer)
        self.vocab_size = model.get_input_embeddings().num_embeddings
        self._pads = not exact and self._can_pad()
        self.document_start = _document_start(tokenizer)
        self.document_ends = _document_ends(model, tokenizer, self.document_start)
        self.prompt_start = _prompt_start(tokenizer)
        self.max_length = _longest(model.config)
        self.settings: dict[str, Any] = {
            "precision": str(model.dtype).removeprefix("torch."),
            "path": "exact" if exact else "fast",
            "model": model.config.model_type,
            "shares_contexts": self._shares and not exact,
            "pads_prompts": self._pads,
            "prompt_start": list(self.prompt_start),
            "document_ends": sorted(self.document_ends),
        }

    def _check_causal(self) -> None:
        """EvalError for a model that reads what follows a token, as an encoder does.

        transformers loads BERT and its kin as language models; their losses would be far too low.
        """
        ids = torch.arange(1, 7, device=self._device)[None] % self._model.config.vocab_size
        other = ids.clone()
        other[0, -1] = 0
        with torch.inference_mode():
            first, second = (self._model(i).logits[0, 0].float() for i in (ids, other))
        # Of equal shapes the first row is equal but for experts, whose batches differ.
        tolerance = 1e-5 if self._model.dtype == torch.float32 else 2e-2
        if (first - second).abs().max() > tolerance * first.abs().max().clamp(min=1e-6):
            raise EvalError(
                f"this model of type {self._model.config.model_type!r} reads the tokens behind the "
                "one it predicts: it is an encoder; give a causal language model"
            )

    def _can_share(self) -> bool:
        """Whether the model's cache can be repeated for several options, tried on one token.

        Caches of hybrid models have the method and layers without it.
        """
        with torch.inference_mode():
            ids = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
            cache = getattr(self._model(ids, use_cache=True), "past_key_values", None)
            try:
                copy.deepcopy(cache).batch_repeat_interleave(2)  # type: ignore[union-attr]
            except (AttributeError, NotImplementedError, TypeError):
                return False
        return True

    def _can_pad(self) -> bool:
        """Whether padding on the left, masked, leaves the next token's logits as they are.

        Recurrent models that know no mask read the padding; they generate one prompt at a time.
        """
        ids = torch.arange(1, 5, device=self._device)[None] % self.vocab_size
        padded = torch.cat([torch.zeros_like(ids), ids], dim=1)
        mask = torch.cat([torch.zeros_like(ids), torch.ones_like(ids)], dim=1)
        named = {"attention_mask": mask}
        parameters = inspect.signature(self._model.forward).parameters
        if "position_ids" in parameters:
            named["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        try:
            with torch.inference_mode():
                alone = self._model(ids).logits[0, -1].float()
                beside = self._model(padded, **named).logits[0, -1].float()
        except (RuntimeError, TypeError, ValueError):
            return False
        # Rounding moves logits by far less; a state that has read padding moves them by far more.
        tolerance = 1e-3 if self._model.dtype == torch.float32 else 5e-2
        return bool((alone - beside).abs().max() <= tolerance * alone.abs().max().clamp(min=1e-6))

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        highest = max((max(row) for row in ids if row), default=0)
        if highest >= self.vocab_size:  # on a GPU the look-up would end the process
            raise EvalError(
                f"the tokenizer gives the id {highest}, and the model has {self.vocab_size} "
                "embeddings: are tokenizer and weights of one model?"
            )
        return ids

    def detokenise(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        if self._exact:
            return [
                [self._rows([(query.context, answer)])[0] for answer in query.continuations]
                for query in queries
            ]
        results: dict[int, list[TokenScores]] = {}
        plain = []
        for query_index, query in enumerate(queries):
            if self._shares and len(query.continuations) > 1:
                results[query_index] = self._shared(query)
            else:
                plain += [(query_index, query.context, answer) for answer in query.continuations]
        lengths = [len(context) + len(answer) for _, context, answer in plain]
        scores: dict[int, TokenScores] = {}
        for group in length_batches(lengths, max_tokens=self._max_tokens):
            pairs = [plain[index][1:] for index in group]
            scores.update(zip(group, self._rows(pairs), strict=True))
        for index, (query_index, _, _) in enumerate(plain):
            results.setdefault(query_index, []).append(scores[index])
        return [results[index] for index in range(len(queries))]

    def _rows(self, pairs: Sequence[tuple[Ids, Ids]]) -> list[TokenScores]:
        """Whole rows, padded on the right, in one batch."""
        rows = [np.concatenate(pair)[:-1] for pair in pairs]
        first = min(len(context) for context, _ in pairs) - 1
        tokens = self._tensor(pad_right(rows))
        mask = self._tensor(pad_right([np.ones_like(row) for row in rows]))
        logits = self._logits(tokens, first, attention_mask=mask, use_cache=False)
        scores = []
        for line, (context, answer) in enumerate(pairs):
            start = len(context) - 1 - first
            scores.append(_read_off(logits[line, start : start + len(answer)], answer))
        return scores

    def _shared(self, query: Query) -> list[TokenScores]:
        """One context, then all its continuations on copies of its cache."""
        context = self._tensor(query.context[None])
        named = {"logits_to_keep": 1} if self._keeps else {}
        output = self._model(context, use_cache=True, **named)
        before = output.logits[0, -1:].float()
        answers = query.continuations
        longest = max(len(answer) for answer in answers)
        if longest == 1:
            return [_read_off(before, answer) for answer in answers]
        cache = copy.deepcopy(output.past_key_values)
        cache.batch_repeat_interleave(len(answers))
        rows = [answer[: longest - 1] for answer in answers]
        tokens = self._tensor(pad_right(rows))
        mask = torch.ones(
            len(answers), context.shape[1] + tokens.shape[1], dtype=torch.int64, device=self._device
        )
        after = self._model(
            tokens, attention_mask=mask, past_key_values=cache, use_cache=True
        ).logits.float()
        return [
            _read_off(torch.cat([before, after[line, : len(answer) - 1]]), answer)
            for line, answer in enumerate(answers)
        ]

    def _logits(self, tokens: Tensor, first: int, **named: Any) -> Tensor:
        """Logits of the positions from `first` on, float32."""
        if self._keeps:
            named["logits_to_keep"] = tokens.shape[1] - first
            return self._model(tokens, **named).logits.float()
        return self._model(tokens, **named).logits[:, first:].float()

    @torch.inference_mode()
    def next_losses(self, contexts: Sequence[Ids]) -> Floats:
        """Minus the logarithm of the softmax over all ids behind each context."""
        rows = []
        for context in contexts:
            logits = self._logits(self._tensor(context[None]), len(context) - 1, use_cache=False)
            rows.append(-logits[0, -1].log_softmax(-1).cpu().numpy())
        return np.stack(rows)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)

    @torch.inference_mode()
    def generate(
        self, contexts: Sequence[Ids], *, max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        results: dict[int, list[int]] = {}
        lengths = [len(context) + max_new_tokens for context in contexts]
        max_tokens = self._max_tokens if self._pads else 1
        for group in length_batches(lengths, max_tokens=max_tokens):
            for index, ids in zip(
                group,
                self._generate([contexts[i] for i in group], max_new_tokens, is_done),
                strict=True,
            ):
                results[index] = ids
        return [results[index] for index in range(len(contexts))]

    def _generate(
        self, contexts: Sequence[Ids], max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        transformers: Any = importlib.import_module("transformers")
        width = max(len(context) for context in contexts)
        tokens = torch.full((len(contexts), width), self.document_start, dtype=torch.int64)
        mask = torch.zeros_like(tokens)
        for line, context in enumerate(contexts):
            tokens[line, width - len(context) :] = torch.from_numpy(context.astype(np.int64))
            mask[line, width - len(context) :] = 1

        def ended(ids: Tensor, scores: Any, **ignored: Any) -> Tensor:
            done = [is_done(self.detokenise(row)) for row in ids[:, width:].tolist()]
            return torch.tensor(done, device=ids.device)

        config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.document_ends),
            pad_token_id=self.document_start,
        )
        # `generate` fills what is not set here (penalties, forced and suppressed tokens) from the
        # checkpoint's generation_config.json, and then greedy is no longer greedy.
        own, self._model.generation_config = (
            self._model.generation_config,
            transformers.GenerationConfig(),
        )
        try:
            output = self._model.generate(
                tokens.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=config,
                stopping_criteria=transformers.StoppingCriteriaList([ended]),
            )
        finally:
            self._model.generation_config = own
        return [self._cut(row, is_done) for row in output[:, width:].tolist()]

    def _cut(self, ids: list[int], is_done: Callable[[str], bool]) -> list[int]:
        """What one row generated before the batch continued without it."""
        for count, token in enumerate(ids, start=1):
            if token in self.document_ends or is_done(self.detokenise(ids[:count])):
                return ids[:count]
        return ids


def _read_off(logits: Tensor, answer: Ids) -> TokenScores:
    target = torch.from_numpy(answer.astype(np.int64)).to(logits.device)
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return TokenScores(losses.cpu().numpy(), logits.argmax(-1).cpu().numpy().astype(np.int32))


def _longest(config: Any) -> int | None:
    """The longest context in tokens; of LongRoPE the length that it was trained with.

    Beyond that all tokens of a batch are turned by other factors, so an answer would depend on what
    else is in its batch.
    """
    longest: int | None = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(scaling, dict):
        return longest
    if (scaling.get("rope_type") or scaling.get("type")) != "longrope":
        return longest
    trained: int | None = scaling.get("original_max_position_embeddings")
    trained = trained or getattr(config, "original_max_position_embeddings", None)
    return min(filter(None, (longest, trained)), default=None)


def _document_start(tokenizer: Any) -> int:
    for name in ("bos_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    raise EvalError("this tokenizer has neither a beginning nor an end token; set bos_token")


def _document_ends(model: Any, tokenizer: Any, document_start: int) -> frozenset[int]:
    """The ids that end a document: the tokenizer's own, and those that the model names.

    Of the model's only ids that are special to the tokenizer count: a configuration has default
    numbers, which may be letters of another vocabulary.
    """
    own = getattr(tokenizer, "eos_token_id", None)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {id for id, token in added.items() if token.special}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    named: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config):
        value = getattr(source, "eos_token_id", None)
        named |= set(value if isinstance(value, list | tuple) else [value]) - {None}
    ends = (named & special) | ({int(own)} if own is not None else set())
    return frozenset(ends or {document_start})


def _prompt_start(tokenizer: Any) -> tuple[int, ...]:
    """The ids that the tokenizer puts before every text: usually none, or a beginning."""
    plain = list(tokenizer(["a"], add_special_tokens=False)["input_ids"][0])
    whole = list(tokenizer(["a"], add_special_tokens=True)["input_ids"][0])
    for end in range(len(whole), len(plain) - 1, -1):  # behind the text may be an end token
        if whole[end - len(plain) : end] == plain:
            return tuple(whole[: end - len(plain)])
    return ()


VOLATILE = ("transformers_version", "dtype", "torch_dtype", "architectures", "name_or_path")


def model_digest(model: Any, tokenizer: Any) -> str:
    """32 hexadecimal digits over all that decides an answer.

    The names, types and bytes of all weights, the configurations of model and generation, the
    tokenizer, and the text of code that came with the model.
    """
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            state.update(_canonical(config.to_dict()))
    state.update(_tokenizer_bytes(tokenizer))
    for part in (model, tokenizer):
        module = type(part).__module__
        if module.startswith("transformers_modules"):
            state.update(inspect.getsource(importlib.import_module(module)).encode())
    return state.hexdigest()[:32]


def _canonical(config: dict[str, Any]) -> bytes:
    kept = {k: v for k, v in config.items() if k not in VOLATILE and not k.startswith("_")}
    return json.dumps(kept, sort_keys=True, default=str).encode()


def _tokenizer_bytes(tokenizer: Any) -> bytes:
    """The tokenizer as files hold it, without what a call before may have set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        described = json.loads(backend.to_str())
        described.pop("padding", None), described.pop("truncation", None)
    elif hasattr(tokenizer, "get_vocab"):
        described = {"vocabulary": tokenizer.get_vocab(), "class": type(tokenizer).__name__}
    else:
        return b""
    described["special"] = getattr(tokenizer, "special_tokens_map", {})
    return json.dumps(described, sort_keys=True, default=str).encode()


def load(
    model: str | Path,
    *,
    device: str | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    exact: bool = False,
    trust_remote_code: bool = False,
    batch_tokens: int | None = None,
) -> HuggingFaceLM:
    """A model of the hub by name, or of a folder. Code from the hub runs only if asked for."""
    transformers: Any = importlib.import_module("transformers")
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    named = {"trust_remote_code": trust_remote_code}
    try:
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            str(model), dtype=dtype, output_loading_info=True, **named
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(model), **named)
    except (
        *(OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError),
        *(SafetensorError, UnpicklingError, ImportError),
    ) as error:
        # What a config.json of another shape or of other sizes raises, weights that are cut, and a
        # quantization whose package is not installed.
        raise EvalError(
            f"cannot load {str(model)!r} with transformers: {type(error).__name__}: {error}"
        ) from None
    missing = sorted(map(str, report["missing_keys"]))
    if missing:  # transformers fills them with random numbers and warns
        raise EvalError(
            f"{str(model)!r} lacks {len(missing)} of the weights that its config.json "
            f"({type(loaded).__name__}) names, as {missing[0]!r}; a model with random weights is "
            "not scored: is the config that of these weights?"
        )
    if not tokenizer(["two words"], add_special_tokens=False)["input_ids"][0]:
        raise EvalError(
            f"{str(model)!r} has no tokenizer: tokenizer.json and its like are not there, "
            "and transformers makes up an empty one"
        )
    return HuggingFaceLM(loaded.to(where), tokenizer, exact=exact, batch_tokens=batch_tokens)
