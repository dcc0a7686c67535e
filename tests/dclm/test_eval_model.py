from __future__ import annotations

import gzip
import pickle

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dclm.eval_model import OpenLMScorer, load, load_openlm, reference_config
from dclm.recipe import ModelConfig
from dclm.training.model import OpenLM
from evals.kinds import kind_of, read_data
from evals.models import ModelError, Query
from evals.tasks import EvalError, load_task
from evals.text.language import requests
from pipelines.records import ModelRecord, ModelWork, made_by, now
from tests.evals.helpers import over_recorded

CONFIG = ModelConfig(vocab_size=300, dim=32, num_layers=2, num_heads=2, seq_len=64)


def pytest_generate_tests(metafunc):
    over_recorded(metafunc, "icl_file", "icl/*.json.gz")


def byte_tokenizer():
    """One token per byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|endoftext|>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def scorer(**named):
    torch.manual_seed(3)
    return OpenLMScorer(OpenLM(CONFIG), byte_tokenizer(), id="a" * 32, document_start=0, **named)


def ids(*values):
    return np.array(values, dtype=np.int32)


def some_queries():
    rng = np.random.default_rng(0)

    def draw(length):
        return rng.integers(1, 300, size=length).astype(np.int32)

    queries = [Query(draw(n), tuple(draw(m) for m in (1, 4, 7))) for n in (5, 30, 1, 12, 30)]
    queries += [Query(draw(n), (draw(m),)) for n, m in ((3, 9), (20, 1), (1, 1))]
    return [*queries, Query(draw(8), (draw(1), draw(1)))]


@pytest.mark.parametrize("batch_tokens", [1, 40, 150, 100_000])
def test_the_fast_path_equals_the_exact_one_for_any_batch_size(batch_tokens):
    queries = some_queries()
    exact = scorer(exact=True).score(queries)
    fast = scorer(batch_tokens=batch_tokens).score(queries)
    for one_by_one, other in zip(exact, fast, strict=True):
        assert len(one_by_one) == len(other)
        for a, b in zip(one_by_one, other, strict=True):
            # float32 sums in another order; mean losses must agree to 1e-4
            np.testing.assert_allclose(a.losses, b.losses, atol=1e-5, rtol=0)
            assert (a.greedy == b.greedy).all()


def test_the_order_of_queries_does_not_matter():
    queries = some_queries()
    forth = scorer(batch_tokens=60).score(queries)
    back = scorer(batch_tokens=60).score(queries[::-1])[::-1]
    for first, other in zip(forth, back, strict=True):
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a.losses, b.losses, atol=1e-5, rtol=0)


def test_losses_are_minus_log_softmax_of_the_logits():
    model = scorer()
    ((scores,),) = model.score([Query(ids(5, 6), (ids(7, 8),))])
    with torch.inference_mode():
        logits = model._model(torch.tensor([[5, 6, 7]]))[0, 1:]
    expected = -torch.log_softmax(logits, -1)[[0, 1], [7, 8]]
    np.testing.assert_allclose(scores.losses, expected.numpy(), atol=1e-5)
    assert scores.greedy.tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("batch_tokens", [1, 30, 100_000])
def test_generation_equals_the_plain_loop(batch_tokens):
    contexts = [ids(5, 6, 7), ids(9), ids(*range(20, 40)), ids(11, 12)]
    model = scorer(batch_tokens=batch_tokens)
    outputs = model.generate(contexts, max_new_tokens=6, is_done=lambda text: False)
    for context, output in zip(contexts, outputs, strict=True):
        row = context.tolist()
        for _ in range(6):
            with torch.inference_mode():
                row.append(int(model._model(torch.tensor([row]))[0, -1].argmax()))
            if row[-1] == 0:
                break
        assert output == row[len(context) :]


def test_generation_ends_when_the_text_is_done():
    model = scorer()
    context = [ids(5, 6, 7)]
    whole = model.generate(context, max_new_tokens=8, is_done=lambda text: False)[0]
    count = []

    def after_two(text):
        count.append(text)
        return len(count) == 2

    assert model.generate(context, max_new_tokens=8, is_done=after_two) == [whole[:2]]
    assert count[1] == model.detokenise(whole[:2])


def test_logits_that_are_not_numbers_stop_a_generation():
    model = scorer()
    with torch.no_grad():
        model._model.output.weight[7] = float("nan")
    with pytest.raises(ModelError, match="not numbers while it generates"):
        model.generate([ids(5, 6)], max_new_tokens=2, is_done=lambda text: False)


@pytest.fixture
def folder(tmp_path):
    """A trained model's folder, as the round leaves it."""
    torch.manual_seed(5)
    save_file(OpenLM(CONFIG).state_dict(), tmp_path / "checkpoint.safetensors")
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    described = {"model": CONFIG.model_dump(), "tokenizer": "tokenizer.json", "end_of_text": 0}
    (tmp_path / "model.json").write_bytes(orjson.dumps(described))
    record = ModelRecord.seal(
        work=ModelWork(benchmark="dclm", scale="tiny", recipe={}, seed=1),
        parents={"packed": "b" * 32},
        made_by=made_by(now()),
    )
    (tmp_path / "record.json").write_bytes(record.to_json())
    return tmp_path, record


def test_a_trained_folder_is_loaded_under_the_id_of_its_record(folder):
    path, record = folder
    model = load(str(path), device="cpu")
    assert (model.id, model.vocab_size, model.document_start) == (record.id, 300, 0)
    assert model.detokenise(model.tokenise(["Grüße"])[0]) == "Grüße"


def test_a_loaded_model_travels_to_workers_by_its_folder(folder):
    model = load(str(folder[0]), device="cpu")
    data = pickle.dumps(model)
    assert len(data) < 1000
    again = pickle.loads(data)
    query = [Query(ids(5, 6), (ids(7),))]
    assert again.score(query)[0][0].losses == model.score(query)[0][0].losses


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("record.json", "has no record.json, so it should be a checkpoint of open_lm"),
        ("model.json", "there is no file .*model.json"),
        ("checkpoint.safetensors", "there is no file .*checkpoint.safetensors"),
    ],
)
def test_a_missing_file_is_named(folder, name, message):
    (folder[0] / name).unlink()
    with pytest.raises(ValueError, match=message):
        load(str(folder[0]), device="cpu")


@pytest.mark.parity
def test_the_recorded_scores_are_reproduced(icl_file, fixtures):
    folder = fixtures / "dclm-eval"
    config = reference_config(orjson.loads((folder / "icl/tiny_model_config.json").read_bytes()))
    model = load_openlm(
        config,
        folder / "icl/icl_tiny.fp16.safetensors",
        folder / "gpt-neox-20b-tokenizer/tokenizer.json",
    )
    recorded = orjson.loads(gzip.decompress(icl_file.read_bytes()))
    task = load_task(recorded["label"])
    data = read_data(task, folder / "local_data")
    places = {}
    for request in requests(task, folder / "local_data", model._tokenizer):
        places[request.category, request.index] = request.row
    for part in recorded["parts"]:
        examples = part["examples"]
        rows = [places[part["category"], example["idx"]] for example in examples]
        log = kind_of(task).answer(task, data, rows, model, window=2048).to_pylist()
        for entry, example in zip(log, examples, strict=True):
            assert entry["correct"] == bool(example.get("result", entry["correct"]))
            if "text" in example:
                generated = entry["options"][0]["ids"]
                assert generated == example["greedy_new_ids_max64"][: len(generated)]
            for ours, theirs in zip(entry["options"], example.get("options", ()), strict=False):
                assert ours["mean_loss"] == pytest.approx(theirs["mean_ce"], abs=1e-4)
                np.testing.assert_allclose(ours["losses"], theirs["token_ce"], atol=5e-4)
                assert ours["greedy"] == theirs["argmax_ids"]
            if "pred" in example:
                assert (entry["predicted"], entry["gold"]) == (example["pred"], example["gold"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_whole_distribution_has_the_losses_that_are_scored(precision):
    model = scorer(precision=precision)
    contexts = [ids(5, 6, 7), ids(9)]
    whole = model.next_losses(contexts)
    assert whole.shape == (2, 300)
    np.testing.assert_allclose(np.exp(-whole.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    for context, losses in zip(contexts, whole, strict=True):
        ((scores,),) = model.score([Query(context, (ids(42),))])
        assert scores.losses[0] == pytest.approx(
            losses[42], abs=1e-2 if precision == "bf16" else 1e-5
        )


SHAPE = {"hidden_dim": 16, "n_layers": 1, "n_heads": 2, "seq_len": 8, "vocab_size": 32}


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        # of (3, 4): mean 3.5, deviation 0.5; root of the mean square sqrt(12.5); gain (2, 1)
        ("rms_norm", [2 * 3 / 12.5**0.5, 4 / 12.5**0.5]),
        ("no_wb_layer_norm", [-1.0, 1.0]),
        ("gain_only_layer_norm", [-2.0, 1.0]),
        ("lp_layer_norm", [-1.5, 1.5]),  # with bias (0.5, 0.5)
    ],
)
def test_norms_of_open_lm(norm: str, expected: list[float]) -> None:
    from dclm.training.model import _norm

    config = ModelConfig.model_construct(dim=2, norm=norm, norm_eps=1e-12)
    module = _norm(config)
    module.init_weights()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.tensor([2.0, 1.0] if name == "weight" else [0.5, 0.5]))
    actual = module(torch.tensor([[3.0, 4.0]]))[0].tolist()
    assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("norm", ["rms_norm", "no_wb_layer_norm", "lp_layer_norm"])
@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_all_options_count_their_parameters_and_load_their_weights(norm, positions) -> None:
    from dclm.training.model import load_state_dict

    options = {"model_norm": norm, "positional_embedding_type": positions, "qk_norm": True}
    config = reference_config(SHAPE | options | {"ffn_type": "swiglu_torch", "attn_name": "auto"})
    model = OpenLM(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_params
    other = OpenLM(config)
    load_state_dict(other, {f"module.{k}": v for k, v in model.state_dict().items()})
    tokens = torch.arange(8)[None]
    assert torch.equal(model(tokens), other(tokens))


NORMS = (
    *("gain_only_lp_layer_norm", "gain_only_layer_norm", "default_layer_norm"),
    *("lp_layer_norm", "no_wb_layer_norm", "rms_norm"),
)
CONFIGURATIONS = [
    *({"model_norm": norm} for norm in NORMS),
    *({"positional_embedding_type": p} for p in ("rotary", "head_rotary", "llama_rotary", "none")),
    *({"ffn_type": ffn} for ffn in ("swiglu", "swiglu_torch", "gelu", "gemma_geglu")),
    *({"qk_norm": qk, "model_norm": "lp_layer_norm"} for qk in (True, False)),
    {"weight_tying": True},
    {"post_embed_norm": True, "model_norm": "rms_norm"},
    *({"attn_name": name} for name in ("auto", "torch_attn", "xformers_attn_variable_length")),
    {"moe_freq": 0, "moe_num_experts": None, "moe_top_k": 2, "moe_capacity_factor": 1.25},
    {"rotary_old": True},
    {"rotary_old": False, "attn_activation": None},
    {"attn_name": "custom_attn", "attn_activation": "softmax", "attn_seq_scalar": "none"},
]


@pytest.mark.parametrize("options", CONFIGURATIONS, ids=str)
def test_a_folder_of_open_lm_with_each_option_is_read(options, tmp_path) -> None:
    """Weights as open_lm saves them beside the model's file: the same logits as the model's own."""
    shape = {k: v for k, v in SHAPE.items() if k not in options}
    torch.manual_seed(3)
    model = OpenLM(reference_config(shape | options))
    state = {f"module._orig_mod.{k}": v for k, v in model.state_dict().items()}
    torch.save({"epoch": 2, "state_dict": state}, tmp_path / "epoch_2.pt")
    (tmp_path / "mine.json").write_bytes(orjson.dumps(shape | options))
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    loaded = load(str(tmp_path), device="cpu")
    tokens = torch.arange(8)[None]
    assert torch.equal(loaded._model(tokens), model(tokens))


def test_the_models_file_counts_before_the_command_line(tmp_path) -> None:
    """open_lm reads an option from its arguments only where the model's file does not name it."""
    model = OpenLM(reference_config(SHAPE | {"model_norm": "rms_norm", "qk_norm": False}))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    (tmp_path / "mine.json").write_bytes(orjson.dumps(SHAPE | {"model_norm": "rms_norm"}))
    lines = ["model_norm: gain_only_layer_norm", "qk_norm: False", "attn_name: auto"]
    (tmp_path / "params.txt").write_text(
        "\n".join([*lines, "moe_freq: 0", "attn_activation: None"])
    )
    byte_tokenizer().save(str(tmp_path / "tokenizer.json"))
    loaded = load(str(tmp_path), device="cpu")
    assert (loaded._model.config.norm, loaded._model.config.qk_norm) == ("rms_norm", False)
    other = tmp_path.rename(tmp_path.with_name("other"))
    (other / "params.txt").write_text("attn_name: custom_attn\nattn_activation: relu\n")
    with pytest.raises(EvalError, match="option attn_name: 'custom_attn' is not supported"):
        load(str(other), device="cpu")


@pytest.mark.parametrize("name", ["tok_embeddings.weight", "output.weight"])
def test_a_tied_table_may_be_stored_once(name: str) -> None:
    from dclm.training.model import load_state_dict

    model = OpenLM(reference_config(SHAPE | {"weight_tying": True}))
    state = dict(model.state_dict())
    del state[name]
    other = OpenLM(model.config)
    load_state_dict(other, state)
    assert torch.equal(model(torch.arange(4)[None]), other(torch.arange(4)[None]))


def test_without_positions_the_order_of_what_came_before_is_nothing() -> None:
    model = OpenLM(reference_config(SHAPE | {"positional_embedding_type": "none"})).eval()
    first, other = (model(torch.tensor([ids]))[0, -1] for ids in ([1, 2, 3], [2, 1, 3]))
    assert torch.allclose(first, other, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moe_freq": 2}, "option moe_freq: 2 is not supported"),
        ({"attn_name": "custom_attn"}, "option attn_name: 'custom_attn' is not supported"),
        (
            {
                "attn_name": "custom_attn",
                "attn_activation": "softmax",
                "attn_seq_scalar": "max",
                "attn_seq_scalar_alpha": 0.5,
            },
            "option attn_name: 'custom_attn' is not supported",
        ),
        ({"ffn_type": "moe"}, "option ffn: "),
        ({"model_norm": "batch_norm"}, "option norm: "),
        ({"sliding_window": 128}, "option sliding_window: 128 is not supported"),
    ],
)
def test_an_unknown_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(EvalError, match=message):
        reference_config(SHAPE | options)


def test_the_rotary_of_old_files_turns_over_heads() -> None:
    assert reference_config(SHAPE | {"rotary_old": True}).rotary == "head_rotary"
    assert reference_config(SHAPE | {"rotary_old": False}).rotary == "rotary"


def test_a_mamba_model_is_named(tmp_path) -> None:
    shape = {"d_model": 768, "n_layer": 12, "vocab_size": 50432, "seq_len": 2048}
    (tmp_path / "mamba_130m.json").write_bytes(orjson.dumps(shape))
    torch.save({"state_dict": {}}, tmp_path / "epoch_1.pt")
    with pytest.raises(EvalError, match="holds a Mamba model of open_lm"):
        load(str(tmp_path), device="cpu")


def test_weights_of_another_configuration_say_of_which() -> None:
    from dclm.training.model import load_state_dict

    state = OpenLM(reference_config(SHAPE | {"model_norm": "lp_layer_norm"})).state_dict()
    model = OpenLM(reference_config(SHAPE | {"qk_norm": False}))
    with pytest.raises(ValueError, match=r"look like norm: lp_layer_norm .*; qk_norm: true"):
        load_state_dict(model, state)
