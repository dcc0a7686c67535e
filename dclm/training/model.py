"""OpenLM: the decoder that every DCLM scale trains, top to bottom.

    tokens -> embedding -> blocks -> norm -> head
    block: h = x + attention(norm(x)); out = h + feed_forward(norm(h))

Pre-norm, no biases, LayerNorm with a gain only, q and k normalised over their whole width before
the head split, rotary positions, SwiGLU. Names of parameters, initialisation and the order of
rounding follow open_lm (github.com/mlfoundations/open_lm), so that its state dicts load unchanged.
Everything is computed in the dtype of the weights; logits are returned in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dclm.recipe import NORM_TENSORS, ModelConfig
from dclm.training.loss import head_loss


class KeyValueCache:
    """Keys (after qk-norm and rotary) and values of all tokens seen so far.

    `layers[i]` is (k, v), each (batch, past, heads, head_dim). `OpenLM.hidden` puts longer tensors
    in place of the old ones and never writes into them, so that `expand` and `copy` are cheap and a
    context can be continued many times:

        context = KeyValueCache()
        model.hidden(question, context)                 # (1, time)
        model.hidden(options, context.expand(4))        # (4, time); `context` is as it was
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers = layers if layers is not None else []

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self.layers[0][0].shape[1] if self.layers else 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values of a layer behind the old ones; returns all of them."""
        if layer < len(self.layers):
            old_k, old_v = self.layers[layer]
            k, v = torch.cat((old_k, k), dim=1), torch.cat((old_v, v), dim=1)
        self.layers[layer : layer + 1] = [(k, v)]
        return k, v

    def copy(self) -> KeyValueCache:
        return KeyValueCache(list(self.layers))

    def expand(self, batch: int) -> KeyValueCache:
        """The one cached row seen `batch` times, without copying it."""
        return KeyValueCache(
            [(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in self.layers]
        )

    def select(self, rows: Tensor) -> KeyValueCache:
        """The rows at these indices, (num_rows,) int64, in this order; an index may repeat."""
        return KeyValueCache([(k[rows], v[rows]) for k, v in self.layers])


class LayerNorm(nn.Module):
    """(x - mean) / std * gain + bias, statistics in float32, result in the dtype of the gain."""

    def __init__(self, dim: int, *, eps: float, bias: bool, gain: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.empty(dim)) if gain else None
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            x = x.to(self.weight.dtype)
        return F.layer_norm(x, (self.dim,), self.weight, self.bias, self.eps)

    def init_weights(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain, the quotient in float32. (Zhang and Sennrich 2019)"""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(self.weight.dtype) * self.weight

    def init_weights(self) -> None:
        nn.init.ones_(self.weight)


def _norm(config: ModelConfig) -> LayerNorm | RMSNorm:
    """The norm of a config. `lp` norms differ in open_lm under autocast only, not used here."""
    if config.norm == "rms_norm":
        return RMSNorm(config.dim, eps=config.norm_eps)
    tensors = NORM_TENSORS.get(config.norm, 1)
    return LayerNorm(config.dim, eps=config.norm_eps, bias=tensors == 2, gain=tensors > 0)


class Rotary(nn.Module):
    """Holds `inv_freq` (head_dim / 2,), base 10000; it is part of the state dict, as in open_lm."""

    inv_freq: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.rotary
        self.head_dim = config.head_dim
        in_state_dict = config.rotary not in ("llama_rotary", "none")
        self.register_buffer("inv_freq", self.frequencies(), persistent=in_state_dict)

    def frequencies(self) -> Tensor:
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim
        return 1.0 / (10000.0**exponents)

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin for these positions, (..., head_dim / 2), in `dtype`.

        As in open_lm the frequencies are rounded to `dtype` before they meet the float32 positions,
        so a bfloat16 model turns by slightly other angles than a float32 one.
        """
        angles = positions.float().unsqueeze(-1) * self.inv_freq.to(dtype).float()
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn x (batch, time, heads, head_dim) by tables that broadcast over its first axes."""
        if self.kind == "none":
            return x
        if self.kind == "llama_rotary":
            even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
            turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
            return turned.flatten(-2).to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_heads
        self.head_dim = config.head_dim
        self.in_proj = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.pos_embed = Rotary(config)
        self.q_norm = _norm(config) if config.qk_norm else None
        self.k_norm = _norm(config) if config.qk_norm else None

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        heads = (*x.shape[:2], self.num_heads, self.head_dim)
        q, k, v = q.view(heads), k.view(heads), v.view(heads)
        q, k = self.pos_embed.rotate(q, cos, sin), self.pos_embed.rotate(k, cos, sin)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        attended = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=mask,
            is_causal=mask is None,
        )
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(-2))
        return out

    def init_weights(self, layer: int) -> None:
        dim = self.in_proj.in_features
        _truncated_normal(self.in_proj.weight, 1 / math.sqrt(dim))
        _truncated_normal(self.out_proj.weight, 1 / math.sqrt(dim) / math.sqrt(2 * (layer + 1)))
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                norm.init_weights()


class SwiGLU(nn.Module):
    """w3(silu(gate) * up), gate and up stacked in w12. (Shazeer 2020)"""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.dim, 2 * config.ffn_dim, bias=False)
        self.w3 = nn.Linear(config.ffn_dim, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * up)
        return out

    def init_weights(self, layer: int) -> None:
        _truncated_normal(self.w12.weight, 1 / math.sqrt(self.w12.in_features))
        deeper = math.sqrt(2 * (layer + 1))
        _truncated_normal(self.w3.weight, 1 / math.sqrt(self.w3.in_features) / deeper)


class GELU(nn.Sequential):
    """Two linear maps around an exact GELU; old open_lm checkpoints have it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            nn.Linear(config.dim, config.ffn_dim, bias=False),
            nn.GELU(),
            nn.Linear(config.ffn_dim, config.dim, bias=False),
        )

    def init_weights(self, layer: int) -> None:
        for index, deeper in ((0, 1.0), (2, math.sqrt(2 * (layer + 1)))):
            linear = cast("nn.Linear", self[index])
            _truncated_normal(linear.weight, 1 / math.sqrt(linear.in_features) / deeper)


class GemmaGeGLU(nn.Module):
    """down(gelu(gate(x)) * up(x)) with biases; initialised as torch does, like open_lm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn_dim)
        self.up_proj = nn.Linear(config.dim, config.ffn_dim)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.gelu(self.gate_proj(x)) * self.up_proj(x))
        return out

    def init_weights(self, layer: int) -> None:
        for linear in (self.gate_proj, self.up_proj, self.down_proj):
            linear.reset_parameters()


FeedForward = SwiGLU | GELU | GemmaGeGLU
FEED_FORWARD: dict[str, type[FeedForward]] = {
    "swiglu": SwiGLU,
    "gelu": GELU,
    "gemma_geglu": GemmaGeGLU,
}


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FEED_FORWARD[config.ffn](config)
        self.attention_norm = _norm(config)
        self.ffn_norm = _norm(config)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask, cache)
        return x + self.feed_forward(self.ffn_norm(x))

    def init_weights(self, layer: int) -> None:
        self.attention.init_weights(layer)
        self.feed_forward.init_weights(layer)
        self.attention_norm.init_weights()
        self.ffn_norm.init_weights()


class OpenLM(nn.Module):
    """The decoder. Weights are drawn from torch's default generator: seed it first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.post_embed_norm = _norm(config) if config.post_embed_norm else None
        blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.layers = cast("list[Block]", blocks)
        self.norm = _norm(config)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.weight_tying:
            self.output.weight = self.tok_embeddings.weight
        if self.output.weight.device.type != "meta":
            self.init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (batch, time) int64 -> logits (batch, time, vocab) float32."""
        return self.head(self.hidden(tokens))

    def head(self, hidden: Tensor) -> Tensor:
        """(..., dim) -> logits (..., vocab) float32, rounded to the dtype of the weights first."""
        logits: Tensor = self.output(hidden)
        return logits.float()

    def loss(
        self, tokens: Tensor, targets: Tensor, *, z_loss: float, ignore: int
    ) -> tuple[Tensor, Tensor]:
        """Mean training loss and mean cross-entropy of targets (batch, time); see dclm.loss."""
        hidden = self.hidden(tokens).flatten(0, 1)
        weight = self.output.weight
        return head_loss(hidden, weight, targets.flatten(), z_loss=z_loss, ignore=ignore)

    def hidden(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        *,
        positions: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """tokens (batch, time) int64 -> states after the final norm, (batch, time, dim).

        With a cache, tokens follow the cached ones, and the cache then holds them too.
        `positions` (batch, time) int64 replaces past, past + 1, ...; `key_mask` (batch, past +
        time) bool is false where a cached or given token is padding that nothing may attend to.
        A batch of contexts padded on the right, continued after each one's own end, needs both.
        """
        past = cache.length if cache is not None else 0
        rotary = self.layers[0].attention.pos_embed  # all layers hold the same frequencies
        x = self.tok_embeddings(tokens)
        if self.post_embed_norm is not None:
            x = self.post_embed_norm(x)
        if rotary.kind == "head_rotary":
            where = torch.arange(self.config.num_heads, device=tokens.device)
            cos, sin = rotary.tables(where, x.dtype)
        else:
            if positions is None:
                positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
            dtype = torch.float32 if rotary.kind == "llama_rotary" else x.dtype
            cos, sin = (table.unsqueeze(-2) for table in rotary.tables(positions, dtype))
        mask = _mask(tokens, past, key_mask)
        for layer in self.layers:
            x = layer(x, cos, sin, mask, cache)
        out: Tensor = self.norm(x)
        return out

    def init_weights(self) -> None:
        """Normal, cut at three standard deviations; output maps shrink with depth."""
        std = 1 / math.sqrt(self.config.dim)
        _truncated_normal(self.tok_embeddings.weight, std)
        if not self.config.weight_tying:
            _truncated_normal(self.output.weight, std)
        for index, layer in enumerate(self.layers):
            layer.init_weights(index)
        self.norm.init_weights()
        if self.post_embed_norm is not None:
            self.post_embed_norm.init_weights()


def _truncated_normal(weight: Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def _mask(tokens: Tensor, past: int, key_mask: Tensor | None) -> Tensor | None:
    """Which keys each query may see; None for plain causal attention, which has faster kernels."""
    if past == 0 and key_mask is None:
        return None
    time = tokens.shape[1]
    causal = torch.ones(time, past + time, dtype=torch.bool, device=tokens.device).tril(past)
    if key_mask is None:
        return causal
    # A padding token sees itself: a row of the softmax that sees nothing would be no number.
    itself = torch.ones_like(causal).triu(past) & causal
    return (causal & key_mask[:, None, :] | itself)[:, None]


def load_state_dict(model: OpenLM, state: Mapping[str, Tensor]) -> None:
    """Load weights under open_lm's names, with or without its `module.` and `_orig_mod.` prefixes.

    ValueError names the tensors that are missing, unknown or of another shape.
    """
    clean = {_plain_name(name): tensor for name, tensor in state.items()}
    if model.config.ffn == "gelu":  # open_lm stores these matrices under two names
        clean = {name: tensor for name, tensor in clean.items() if "._ff_w" not in name}
    if model.config.rotary == "llama_rotary":  # a table that is computed here
        clean = {name: t for name, t in clean.items() if not name.endswith("freqs_cis")}
    if model.config.weight_tying:  # one tensor: a file may hold it under one of its names
        table = clean.get("tok_embeddings.weight", clean.get("output.weight"))
        if table is not None:
            clean = {"tok_embeddings.weight": table, "output.weight": table} | clean
    expected = model.state_dict()
    missing = sorted(expected.keys() - clean.keys())
    unknown = sorted(clean.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(
            f"these weights are not of this model: missing {missing[:3]} ({len(missing)} in all), "
            f"unknown {unknown[:3]} ({len(unknown)} in all); {_advice(missing, unknown)}"
        )
    for name, tensor in clean.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, but this model needs "
                f"{tuple(expected[name].shape)}; check the model's configuration"
            )
    frequencies = [clean[name] for name in clean if name.endswith("pos_embed.inv_freq")]
    if any(not torch.equal(frequencies[0], other) for other in frequencies[1:]):
        raise ValueError("the layers have different rotary frequencies; such a model is not OpenLM")
    model.load_state_dict(clean)


SIGNS = (  # part of a tensor's name, what it means when it is unknown, and when it is missing
    ("_norm.bias", "norm: lp_layer_norm or default_layer_norm", "norm without bias, or rms_norm"),
    ("q_norm", "qk_norm: true", "qk_norm: false"),
    ("k_norm", "qk_norm: true", "qk_norm: false"),
    ("post_embed_norm", "post_embed_norm: true", "post_embed_norm: false"),
    ("inv_freq", "rotary: rotary or head_rotary", "rotary: llama_rotary or none"),
    ("experts", "ffn_type moe, a mixture of experts, which is not supported", ""),
    ("router", "ffn_type moe, a mixture of experts, which is not supported", ""),
    ("feed_forward.w12", "ffn: swiglu", "ffn: gelu or gemma_geglu"),
    ("feed_forward.gate_proj", "ffn: gemma_geglu", "ffn: swiglu or gelu"),
    ("feed_forward.0", "ffn: gelu", "ffn: swiglu or gemma_geglu"),
    ("attention_norm.weight", "a norm with a gain", "norm: no_wb_layer_norm"),
)


def _advice(missing: list[str], unknown: list[str]) -> str:
    """Which options of the configuration these names speak for."""
    options = [has for sign, has, _ in SIGNS if any(sign in name for name in unknown)]
    options += [lacks for sign, _, lacks in SIGNS if any(sign in name for name in missing)]
    options = [option for option in dict.fromkeys(options) if option]
    if not options:
        return "check the model's configuration"
    return f"the weights look like {'; '.join(options)}"


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix("model.")
