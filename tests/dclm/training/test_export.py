"""Exports load elsewhere with the same logits; pickles of others run no code."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dclm.eval_model import load
from dclm.recipe import ModelConfig
from dclm.training.export import export, read_model, read_open_lm
from dclm.training.model import OpenLM, load_state_dict
from dclm.training.train import train
from evals.loading import load_model
from evals.models import Query
from evals.tasks import EvalError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def trained(packed_words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, packed = packed_words
    out = tmp_path_factory.mktemp("model")
    train(str(packed), recipe=recipe, seed=0, out=str(out))
    return out


def model_of(folder: Path) -> OpenLM:
    config, weights, _ = read_model(folder)
    model = OpenLM(config)
    load_state_dict(model, weights)
    return model


TOKENS = torch.randint(319, (3, 20), generator=torch.Generator().manual_seed(0))

LOAD = """
import sys, json, torch
import dclm.training.hf
from transformers import AutoModelForCausalLM, AutoTokenizer, AutoConfig
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
tokens = torch.tensor(json.loads(sys.argv[2]))
with torch.no_grad():
    out = model(tokens, labels=tokens)
    padded = torch.cat((torch.zeros(3, 4, dtype=torch.long), tokens), 1)
    mask = torch.cat((torch.zeros(3, 4, dtype=torch.long), torch.ones_like(tokens)), 1)
    left = model(padded, attention_mask=mask).logits[:, 4:]
    made = model.generate(tokens[:1, :5], max_new_tokens=4, do_sample=False)
print(json.dumps({
    "type": type(model).__name__, "logits": out.logits.tolist(), "loss": out.loss.item(),
    "left": left.tolist(), "ids": tokenizer("the time of all")["input_ids"],
    "generated": made[0].tolist(),
}))
"""


@pytest.mark.slow
def test_a_fresh_process_loads_the_export_with_transformers(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    names = export(str(trained), to="hf", out=str(tmp_path / "hf"))
    expected = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert names == expected
    run = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "hf"), json.dumps(TOKENS.tolist())],
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    actual = json.loads(run.stdout.splitlines()[-1])
    model = model_of(trained)
    with torch.no_grad():
        logits = model(TOKENS)
        greedy = TOKENS[:1, :5]
        for _ in range(4):
            greedy = torch.cat((greedy, model(greedy)[:, -1:].argmax(-1)), 1)
    assert actual["type"] == "OpenLMForCausalLM"
    np.testing.assert_allclose(np.array(actual["logits"]), logits.numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.array(actual["left"]), logits.numpy(), atol=1e-4, rtol=0)
    assert actual["generated"] == greedy[0].tolist()
    from dclm.packing.tokenizer import Tokenizer

    encoder = Tokenizer((trained / "tokenizer.json").read_bytes(), name="x", source="x")
    assert [actual["ids"]] == encoder.encode(["the time of all"])


def test_open_lm_export_has_its_names_and_comes_back(trained: Path, tmp_path: Path) -> None:
    names = export(str(trained), to="open_lm", out=str(tmp_path / "o"))
    assert names == ["checkpoint.pt", "model.json", "params.txt", "tokenizer.json"]
    shape = json.loads((tmp_path / "o" / "model.json").read_text())
    assert shape["hidden_dim"] == 32
    assert shape["n_layers"] == 2
    stored = torch.load(tmp_path / "o" / "checkpoint.pt", weights_only=True)
    assert stored["state_dict"].keys() == load_file(trained / "checkpoint.safetensors").keys()
    model = model_of(trained)
    back = read_open_lm(tmp_path / "o" / "checkpoint.pt", model.config)
    with torch.no_grad():
        assert torch.equal(back(TOKENS), model(TOKENS))


def test_a_folder_of_open_lm_is_scored_as_the_model_it_came_from(
    trained: Path, tmp_path: Path
) -> None:
    export(str(trained), to="open_lm", out=str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch_1.pt").write_bytes(b"an earlier one, not opened")
    (tmp_path / "checkpoint.pt").rename(tmp_path / "checkpoints" / "epoch_2.pt")
    own, theirs = load(str(trained)), load_model(f"dclm:{tmp_path}", trust_remote_code=False)
    assert own.id != theirs.id
    queries = [Query(np.int32([0, 5, 6]), (np.int32([7, 8]), np.int32([9])))]
    for ours, their in zip(own.score(queries)[0], theirs.score(queries)[0], strict=True):
        assert np.array_equal(ours.losses, their.losses)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "epoch_2.pt").write_bytes(b"")
    with pytest.raises(EvalError, match=r"one JSON file of the model .* found 1 and 0"):
        load(str(bare))


@pytest.mark.parity
def test_state_dicts_of_open_lm_load_as_pt(fixtures: Path, tmp_path: Path) -> None:
    paths = sorted(fixtures.glob("dclm-eval/openlm/*/state_dict.safetensors"))
    if not paths:
        pytest.skip("no recorded models in the fixtures")
    for path in paths:
        expected = json.loads((path.parent / "expected.json").read_text())
        shape = expected["config"]
        config = ModelConfig(
            vocab_size=shape["vocab_size"],
            dim=shape["hidden_dim"],
            num_layers=shape["n_layers"],
            num_heads=shape["n_heads"],
            seq_len=shape["seq_len"],
            norm=expected["norm"],
            qk_norm=expected["qk_norm"],
            post_embed_norm=shape["post_embed_norm"],
            ffn=expected["ffn_type"].removesuffix("_torch"),
        )
        state = {f"module.{name}": tensor for name, tensor in load_file(path).items()}
        torch.save({"epoch": 3, "state_dict": state}, tmp_path / "epoch_3.pt")
        from_pt = read_open_lm(tmp_path / "epoch_3.pt", config)
        from_safetensors = read_open_lm(path, config)
        for name, tensor in from_safetensors.state_dict().items():
            assert torch.equal(tensor, from_pt.state_dict()[name])


class Evil:
    def __reduce__(self):
        return (open, ("evil-was-here", "w"))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "args": Evil()}, "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    config = ModelConfig(vocab_size=8, dim=8, num_layers=1, num_heads=1, seq_len=8)
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(ValueError, match=f"{name} is not only weights and was not loaded"):
            read_open_lm(name, config)
    assert not (tmp_path / "evil-was-here").exists()


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=8, dim=8, num_layers=1, num_heads=1, seq_len=8)
    torch.save({"state_dict": OpenLM(config).state_dict()}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"cut\.pt is damaged"):
        read_open_lm(tmp_path / "cut.pt", config)
    with pytest.raises(ValueError, match=r"list\.pt holds no state dict"):
        read_open_lm(tmp_path / "list.pt", config)
    with pytest.raises(ValueError, match=r"no file .*none\.pt"):
        read_open_lm(tmp_path / "none.pt", config)
    other = config.model_copy(update={"num_layers": 2})
    with pytest.raises(ValueError, match=r"missing \['layers\.1\."):
        read_open_lm(tmp_path / "whole.pt", other)


def test_export_says_what_it_needs(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'gguf'; choose one of hf, open_lm"):
        export(str(trained), to="gguf", out=str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"model\.json is missing; name the folder"):
        export(str(tmp_path), to="hf", out=str(tmp_path / "x"))
    with pytest.raises(ValueError, match="is not empty; choose a new folder"):
        export(str(trained), to="hf", out=str(trained))
