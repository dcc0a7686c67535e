"""The model is OpenLM: same names, same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dclm.recipe import ModelConfig
from dclm.training.model import KeyValueCache, OpenLM, load_state_dict

SMALL = ModelConfig(vocab_size=64, dim=32, num_layers=2, num_heads=4, seq_len=32)


def config_of(expected: dict) -> ModelConfig:
    shape = expected["config"]
    return ModelConfig(
        vocab_size=shape["vocab_size"],
        dim=shape["hidden_dim"],
        num_layers=shape["n_layers"],
        num_heads=shape["n_heads"],
        seq_len=shape["seq_len"],
        norm=expected["norm"],
        norm_eps=expected["norm_eps"],
        qk_norm=expected["qk_norm"],
        post_embed_norm=shape["post_embed_norm"],
        weight_tying=shape["weight_tying"],
        ffn=expected["ffn_type"].removesuffix("_torch"),
        rotary=expected["positional_embedding_type"],
    )


def folders(fixtures: Path) -> list[Path]:
    paths = sorted(path.parent for path in fixtures.glob("dclm-eval/openlm/*/io.npz"))
    if not paths:
        pytest.skip("no recorded models in the fixtures")
    return paths


def recorded(folder: Path) -> tuple[dict, OpenLM, dict[str, np.ndarray]]:
    expected = json.loads((folder / "expected.json").read_text())
    model = OpenLM(config_of(expected))
    load_state_dict(model, load_file(folder / "state_dict.safetensors"))
    return expected, model, dict(np.load(folder / "io.npz"))


@pytest.mark.parity
def test_logits_and_losses_equal_open_lm(fixtures: Path) -> None:
    for folder in folders(fixtures):
        expected, model, arrays = recorded(folder)
        tokens = torch.from_numpy(arrays["tokens"]).long()
        with torch.no_grad():
            hidden = model.hidden(tokens[:, :-1])
            logits = model(tokens[:, :-1])
        assert logits.dtype == torch.float32
        np.testing.assert_allclose(logits.numpy(), arrays["logits"], atol=2e-4, rtol=0)
        np.testing.assert_allclose(hidden[:1].numpy(), arrays["last_hidden"], atol=2e-4, rtol=0)
        losses = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        np.testing.assert_allclose(losses.numpy(), arrays["per_token_ce"], atol=1e-4, rtol=0)
        assert losses.mean().item() == pytest.approx(expected["loss_ce"], abs=1e-5)
        squared = logits.logsumexp(-1).square().mean()
        for coefficient, value in expected["loss_with_z"].items():
            ours = losses.mean() + float(coefficient) * squared
            assert ours.item() == pytest.approx(value, abs=1e-5), folder.name


@pytest.mark.parity
def test_names_shapes_and_count_equal_open_lm(fixtures: Path) -> None:
    for folder in folders(fixtures):
        expected, model, _ = recorded(folder)
        ours = {name: [list(t.shape), str(t.dtype)] for name, t in model.state_dict().items()}
        theirs = {k: v for k, v in expected["state_dict_keys"].items() if "._ff_w" not in k}
        assert ours == theirs
        assert sum(p.numel() for p in model.parameters()) == expected["n_params"]
        assert model.config.num_params == expected["n_params"]


@pytest.mark.parity
def test_initialisation_has_the_recorded_spread(fixtures: Path) -> None:
    for folder in folders(fixtures):
        expected, _, _ = recorded(folder)
        torch.manual_seed(0)
        state = OpenLM(config_of(expected)).state_dict()
        for name, theirs in expected["init_stats"].items():
            if "._ff_w" in name:
                continue
            ours, size = state[name].double(), state[name].numel()
            # Two samples of one distribution: their means and spreads differ by chance only.
            chance = 5 * theirs["std"] * math.sqrt(2 / size)
            assert ours.mean().item() == pytest.approx(theirs["mean"], abs=chance + 1e-12), name
            assert ours.std().item() == pytest.approx(theirs["std"], abs=chance + 1e-12), name
            assert ours.abs().max().item() == pytest.approx(theirs["absmax"], rel=0.15), name


@pytest.mark.parity
def test_cached_continuation_equals_the_whole(fixtures: Path) -> None:
    for folder in folders(fixtures):
        _, model, arrays = recorded(folder)
        tokens = torch.from_numpy(arrays["tokens"]).long()[:, :-1]
        cut = tokens.shape[1] // 3
        with torch.no_grad():
            whole = model(tokens)
            cache = KeyValueCache()
            first = model.head(model.hidden(tokens[:, :cut], cache))
            second = model.head(model.hidden(tokens[:, cut : cut + 1], cache))
            third = model.head(model.hidden(tokens[:, cut + 1 :], cache))
        joined = torch.cat((first, second, third), dim=1)
        torch.testing.assert_close(joined, whole, atol=2e-5, rtol=0)
        assert cache.length == tokens.shape[1]


def small_model() -> OpenLM:
    torch.manual_seed(0)
    return OpenLM(SMALL).eval()


@torch.no_grad()
def test_a_context_is_reused_for_several_options() -> None:
    model = small_model()
    context, options = torch.randint(64, (1, 9)), torch.randint(64, (3, 4))
    cache = KeyValueCache()
    model.hidden(context, cache)
    shared = model.hidden(options, cache.expand(3))
    again = model.hidden(options, cache.expand(3))
    whole = model.hidden(torch.cat((context.expand(3, -1), options), dim=1))[:, 9:]
    assert cache.length == 9
    torch.testing.assert_close(shared, again, atol=0, rtol=0)
    torch.testing.assert_close(shared, whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_contexts_of_different_length_share_a_batch() -> None:
    model = small_model()
    lengths = torch.tensor([5, 9])
    contexts = torch.randint(64, (2, 9))
    options = torch.randint(64, (2, 4))
    keep = torch.arange(9) < lengths[:, None]
    cache = KeyValueCache()
    model.hidden(contexts, cache, key_mask=keep)
    batched = model.hidden(
        options,
        cache,
        positions=lengths[:, None] + torch.arange(4),
        key_mask=torch.cat((keep, torch.ones(2, 4, dtype=torch.bool)), dim=1),
    )
    for row, length in enumerate(lengths.tolist()):
        alone = torch.cat((contexts[row, :length], options[row]))[None]
        expected = model.hidden(alone)[:, length:]
        torch.testing.assert_close(batched[row : row + 1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_selected_rows_of_a_cache_continue_their_own_context() -> None:
    model = small_model()
    contexts, options = torch.randint(64, (2, 6)), torch.randint(64, (3, 2))
    cache = KeyValueCache()
    model.hidden(contexts, cache)
    rows = torch.tensor([1, 0, 1])
    ours = model.hidden(options, cache.select(rows))
    whole = model.hidden(torch.cat((contexts[rows], options), dim=1))[:, 6:]
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_later_tokens_do_not_change_earlier_logits() -> None:
    model = small_model()
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 7:] = (changed[0, 7:] + 1) % 64
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().max() > 1e-3


@torch.no_grad()
def test_bfloat16_rounds_the_rotary_frequencies_first() -> None:
    model = small_model().to(torch.bfloat16)
    rotary = model.layers[0].attention.pos_embed
    cos, _ = rotary.tables(torch.tensor([0, 7, 2000]), torch.bfloat16)
    inv_freq = [10000.0 ** (-2 * i / 8) for i in range(4)]
    rounded = [torch.tensor(value).bfloat16().double().item() for value in inv_freq]
    by_hand = [[math.cos(p * f) for f in rounded] for p in (0, 7, 2000)]
    expected = torch.tensor(by_hand, dtype=torch.float32).bfloat16()
    torch.testing.assert_close(cos, expected, atol=2**-8, rtol=0)
    unrounded = torch.tensor([math.cos(2000 * f) for f in inv_freq]).bfloat16()
    assert not torch.equal(cos[2], unrounded)
    assert model(torch.randint(64, (1, 5))).dtype == torch.float32


def test_prefixes_of_wrapped_models_are_removed() -> None:
    model = small_model()
    wrapped = {f"module._orig_mod.{name}": t + 1 for name, t in model.state_dict().items()}
    other = OpenLM(SMALL)
    load_state_dict(other, wrapped)
    assert torch.equal(other.norm.weight, model.norm.weight + 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("norm.weight"), "missing .*norm.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "unknown .*extra"),
        (lambda state: state.update({"norm.weight": torch.ones(3)}), r"\(3,\).*\(32,\)"),
        (
            lambda state: state.update({"layers.1.attention.pos_embed.inv_freq": torch.ones(4)}),
            "different rotary frequencies",
        ),
    ],
)
def test_foreign_weights_are_refused(spoil, message: str) -> None:
    model = small_model()
    state = dict(model.state_dict())
    spoil(state)
    with pytest.raises(ValueError, match=message):
        load_state_dict(model, state)


@pytest.mark.parametrize("ffn", ["gelu", "gemma_geglu"])
@pytest.mark.parametrize("rotary", ["rotary", "head_rotary", "llama_rotary"])
@torch.no_grad()
def test_old_variants_run_with_a_cache(ffn: str, rotary: str) -> None:
    torch.manual_seed(0)
    config = SMALL.model_copy(update={"ffn": ffn, "rotary": rotary})
    model = OpenLM(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_params
    tokens = torch.randint(64, (2, 9))
    cache = KeyValueCache()
    parts = [model.hidden(tokens[:, :4], cache), model.hidden(tokens[:, 4:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), model.hidden(tokens), atol=1e-5, rtol=0)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="does not split into 3 heads"):
        ModelConfig(vocab_size=64, dim=32, num_layers=2, num_heads=3, seq_len=32)
