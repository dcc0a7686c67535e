"""Training repeats exactly, continues exactly, and stops with one clear message."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import data_sets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dclm.eval_model import load
from dclm.packing.loader import Sequences
from dclm.recipe import ModelConfig, Recipe, lr
from dclm.training.model import OpenLM, load_state_dict
from dclm.training.train import train
from evals.tasks import EvalError
from leaderboard.rounds.round import checkpoints_of
from leaderboard.rounds.train_log import read_metrics
from pipelines.errors import Interrupted
from pipelines.execution.executors import map_here
from pipelines.records import ModelRecord, parse_record
from tests.dclm.stopping import StoppedError, stop_at

ROOT = Path(__file__).parents[3]


def trace(out: Path) -> list[tuple[int, float, float, float]]:
    rows = read_metrics(out / "metrics.jsonl")
    return [(row.step, row.loss, row.cross_entropy, row.grad_norm) for row in rows]


def plain_losses(recipe: Recipe, data: Sequences, seed: int, steps: int) -> list[float]:
    """The recipe as a loop of the most ordinary kind: whole logits, whole batch, one process."""
    torch.manual_seed(seed)
    model = OpenLM(recipe.model)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay
    )
    losses = []
    for step in range(steps):
        rows = data.batch(step * recipe.global_batch_size, recipe.global_batch_size)
        tokens = torch.from_numpy(rows)
        logits = model(tokens[:, :-1]).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        counted = F.cross_entropy(
            logits, targets, ignore_index=recipe.tokenizer.pad, reduction="none"
        )
        loss = counted.mean() + recipe.z_loss * logits.logsumexp(1).square().mean()
        optimizer.param_groups[0]["lr"] = lr(recipe, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_run_leaves_a_model_and_its_record(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    seen = []
    record = train(
        str(packed),
        recipe=recipe,
        seed=0,
        out=str(tmp_path),
        progress=lambda *values: seen.append(values),
    )
    parent = parse_record((packed / "record.json").read_bytes(), source="packed")
    stored = parse_record((tmp_path / "record.json").read_bytes(), source="record")
    assert isinstance(stored, ModelRecord)
    assert stored == record
    assert record.parents == {"packed": parent.id}
    assert record.work.seed == 0
    assert Recipe.model_validate(record.work.recipe) == recipe
    assert record.results["tokens_seen"] == recipe.tokens == 40 * 8 * 32
    assert record.counts["passes"] == -(-40 * 8 // parent.counts["sequences"])
    losses = [row[2] for row in trace(tmp_path)]
    assert record.results["loss"] == pytest.approx(sum(losses[-2:]) / 2)
    assert losses[-1] < losses[0] - 1.0, "it learned"
    assert [values[:2] for values in seen] == [(step + 1, 40) for step in range(40)]
    described = json.loads((tmp_path / "model.json").read_text())
    model = OpenLM(ModelConfig.model_validate(described["model"]))
    load_state_dict(model, load_file(tmp_path / "checkpoint.safetensors"))
    tokens = torch.from_numpy(Sequences(str(packed), recipe=recipe).batch(0, 8))
    loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:], z_loss=0.0, ignore=-1)
    assert loss.item() < losses[0] - 1.0
    assert (tmp_path / described["tokenizer"]).exists()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "checkpoints").exists()


def test_same_seed_same_id_other_seed_other_weights(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    records = [
        train(str(packed), recipe=recipe, seed=seed, out=str(tmp_path / name))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert records[0].id == records[1].id
    assert records[0].outputs[0].sha256 != records[2].outputs[0].sha256


def test_losses_equal_those_of_a_plain_loop(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path), micro_batch=2)
    data = Sequences(str(packed), recipe=recipe)
    ours = [row[1] for row in trace(tmp_path)]
    np.testing.assert_allclose(ours, plain_losses(recipe, data, 0, 40), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [500, pytest.param(2000, marks=pytest.mark.soak)])
def test_many_steps_equal_those_of_a_plain_loop(packed_words, tmp_path: Path, steps: int) -> None:
    recipe, packed = packed_words
    # A rate at which rounding does not grow: at larger ones any two orders of summation part.
    values = {"tokens": steps * 8 * 32, "learning_rate": 1e-3, "min_learning_rate": 1e-4}
    recipe = Recipe.model_validate(recipe.model_dump() | values)
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path), micro_batch=4)
    data = Sequences(str(packed), recipe=recipe)
    ours = [row[1] for row in trace(tmp_path)]
    assert len(ours) == steps
    np.testing.assert_allclose(ours, plain_losses(recipe, data, 0, steps), atol=1e-4, rtol=0)


@pytest.mark.parity
def test_eight_steps_equal_the_recorded_trace(fixtures: Path) -> None:
    """open_lm's trace: loss, rate and gradient norm of every step, and the weights at the end."""
    paths = sorted(fixtures.glob("dclm-eval/openlm/*/expected.json"))
    paths = [path for path in paths if (path.parent / "io.npz").exists()]
    if not paths:
        pytest.skip("no recorded models in the fixtures")
    for path in paths:
        expected = json.loads(path.read_text())
        shape, settings = expected["config"], expected["train"]
        config = ModelConfig(
            vocab_size=shape["vocab_size"],
            dim=shape["hidden_dim"],
            num_layers=shape["n_layers"],
            num_heads=shape["n_heads"],
            seq_len=shape["seq_len"],
            norm=expected["norm"],
            qk_norm=expected["qk_norm"],
            post_embed_norm=shape["post_embed_norm"],
            weight_tying=shape["weight_tying"],
            ffn=expected["ffn_type"].removesuffix("_torch"),
            rotary=expected["positional_embedding_type"],
        )
        model = OpenLM(config)
        load_state_dict(model, load_file(path.parent / "state_dict.safetensors"))
        tokens = torch.from_numpy(np.load(path.parent / "io.npz")["tokens"]).long()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            betas=tuple(settings["betas"]),
            eps=settings["eps"],
            weight_decay=settings["wd"],
            fused=True,
        )
        for row in settings["trace"]:
            optimizer.param_groups[0]["lr"] = row["lr"]
            total = 0.0
            parts = tokens.chunk(settings["accum"])
            for part in parts:
                loss, _ = model.loss(
                    part[:, :-1], part[:, 1:], z_loss=settings["z_loss"], ignore=-100
                )
                (loss / len(parts)).backward()
                total += loss.item() / len(parts)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
            optimizer.step()
            optimizer.zero_grad()
            assert total == pytest.approx(row["loss"], abs=1e-3)
            assert norm.item() == pytest.approx(row["grad_norm"], abs=1e-3)
        for name, (size, total) in settings["final_param_norm_sum"].items():
            if "._ff_w" in name:
                continue
            value = model.state_dict()[name].double()
            assert value.norm().item() == pytest.approx(size, abs=1e-3), name
            assert value.sum().item() == pytest.approx(total, abs=1e-2), name


def test_bf16_recipe_keeps_float32_weights_and_stays_close(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "fp32"))
    bf16 = recipe.model_copy(update={"precision": "bf16"})
    train(str(packed), recipe=bf16, seed=0, out=str(tmp_path / "bf16"), micro_batch=4)
    weights = load_file(tmp_path / "bf16" / "checkpoint.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in weights.values())
    ours = np.array([row[1] for row in trace(tmp_path / "bf16")])
    exact = np.array([row[1] for row in trace(tmp_path / "fp32")])
    # bfloat16 has 8 bits: a part in 256 of a loss of about 6, and what 40 steps make of it.
    np.testing.assert_allclose(ours, exact, atol=0.1, rtol=0)
    assert not np.array_equal(ours, exact)


# ---- Continuing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "every"), [(3, 5), (17, 5), (20, 5), (39, 7)])
def test_a_stopped_run_continues_bit_for_bit(
    packed_words, tmp_path: Path, stop: int, every: int
) -> None:
    recipe, packed = packed_words
    named = {"recipe": recipe, "seed": 0, "checkpoint_every": every}
    whole = train(str(packed), out=str(tmp_path / "whole"), **named)
    out = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        train(str(packed), out=str(out), progress=stop_at(stop), **named)
    record = train(str(packed), out=str(out), **named)
    assert trace(out) == trace(tmp_path / "whole")
    assert record.id == whole.id


def test_sigterm_writes_a_checkpoint(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words

    def progress(done: int, total: int, loss: float, speed: float) -> None:
        if done == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 11 of 40"):
        train(str(packed), recipe=recipe, seed=0, out=str(tmp_path), progress=progress)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000011"]
    first = []
    train(
        str(packed),
        recipe=recipe,
        seed=0,
        out=str(tmp_path),
        progress=lambda *values: first.append(values[0]),
    )
    assert first[0] == 12


def script(recipe: Recipe, packed: Path, out: Path, **options: object) -> str:
    return (
        "import os, pathlib, torch; torch.set_num_threads(1)\n"
        "pathlib.Path(__file__).with_name(f'pid-{os.getpid()}').touch()\n"
        "from dclm.recipe import Recipe; from dclm.training.train import train\n"
        f"recipe = Recipe.model_validate({recipe.model_dump()!r})\n"
        f"train({str(packed)!r}, recipe=recipe, seed=0, out={str(out)!r}, **{options!r})\n"
    )


def start(code: str, folder: Path, *, processes: int) -> subprocess.Popen[bytes]:
    path = folder / "run.py"
    path.write_text(code)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(processes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()[-3000:]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    recipe = recipe.model_copy(update={"global_batch_size": 16, "tokens": 30 * 16 * 32})
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "one"))
    finish(start(script(recipe, packed, tmp_path / "two"), tmp_path, processes=2))
    left = [row[1] for row in trace(tmp_path / "one")]
    right = [row[1] for row in trace(tmp_path / "two")]
    assert len(left) == len(right) == 30
    np.testing.assert_allclose(right, left, atol=1e-4, rtol=0)
    first = load_file(tmp_path / "one" / "checkpoint.safetensors")
    second = load_file(tmp_path / "two" / "checkpoint.safetensors")
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_lost(packed_words, tmp_path: Path) -> None:
    recipe, packed = packed_words
    train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "whole"))
    out = tmp_path / "moved"
    code = script(recipe, packed, out, checkpoint_every=5).rstrip(")\n")
    code += ", progress=lambda done, *_: done < 18 or os._exit(9))\n"
    process = start(code, tmp_path, processes=2)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0, output.decode()[-3000:]
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    first = []
    train(
        str(packed),
        recipe=recipe,
        seed=0,
        out=str(out),
        progress=lambda *values: first.append(values[0]),
    )
    assert first[0] == int(checkpoint.name.removeprefix("step-")) + 1 >= 6
    left, second = ([row[1] for row in trace(folder)] for folder in (tmp_path / "whole", out))
    np.testing.assert_allclose(second, left, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("steps", [60, pytest.param(300, marks=pytest.mark.soak)])
def test_kill_at_a_random_step_changes_nothing(tmp_path: Path, processes: int, steps: int) -> None:
    """A model of 4 million parameters, kill -9, the same command again."""
    shape = {
        "vocab_size": data_sets.VOCAB,
        "dim": 256,
        "num_layers": 4,
        "num_heads": 4,
        "seq_len": 32,
    }
    recipe = data_sets.recipe(
        tmp_path, model=shape, tokens=steps * 4 * 32, global_batch_size=4, learning_rate=1e-3
    )
    assert recipe.model.num_params == pytest.approx(4_000_000, rel=0.15)
    from dclm.packing.pack import pack

    dataset = data_sets.dataset(tmp_path / "dataset", data_sets.sentences(300, seed=5))
    packed = tmp_path / "packed"
    pack(dataset, recipe=recipe, out=str(packed), map_tasks=map_here)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(script(recipe, packed, whole), tmp_path, processes=processes))
    for path in tmp_path.glob("pid-*"):
        path.unlink()
    code = script(recipe, packed, killed, checkpoint_every=10)
    step = int(np.random.default_rng(time.time_ns()).integers(25, steps - 15))
    process = start(code, tmp_path, processes=processes)
    deadline = time.monotonic() + 400
    while len(read_metrics(killed / "metrics.jsonl")) < step:
        assert process.poll() is None, process.communicate()[0].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert len(workers) == processes
    for pid in [process.pid, *workers]:  # torchrun's workers are not in its process group
        with suppress(ProcessLookupError):  # a worker alone is the process itself
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "record.json").exists(), "it was killed before its end"
    assert list((killed / "checkpoints").glob("step-*"))
    finish(start(code, tmp_path, processes=processes))
    assert len(trace(whole)) == steps
    assert trace(killed) == trace(whole), f"killed at step {step}"


# ---- weights on the way


def test_the_weights_at_the_ends_of_the_parts_are_kept(packed_words, tmp_path: Path) -> None:
    """Those of a run that was stopped between two parts equal those of one that was not."""
    recipe, packed = packed_words
    shorter = {"tokens": 12 * 8 * 32, "num_checkpoints": 3, "warmup_steps": 2}
    recipe = Recipe.model_validate(recipe.model_dump() | shorter)
    whole = train(str(packed), recipe=recipe, seed=0, out=str(tmp_path / "whole"))
    kept = [file.name for file in whole.outputs if file.name.startswith("intermediate/")]
    assert kept == [
        "intermediate/step-00000004.safetensors",
        "intermediate/step-00000008.safetensors",
    ]

    def stop(step: int, *_: object) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    parts = tmp_path / "parts"
    with pytest.raises(Interrupted):
        train(str(packed), recipe=recipe, seed=0, out=str(parts), progress=stop)
    resumed = train(str(packed), recipe=recipe, seed=0, out=str(parts))
    assert [file.sha256 for file in resumed.outputs] == [file.sha256 for file in whole.outputs]
    final = load_file(parts / "checkpoint.safetensors")
    before = load_file(parts / kept[0])
    assert final.keys() == before.keys()
    assert any(not torch.equal(final[name], before[name]) for name in final)
    assert checkpoints_of(str(parts)) == ["step-00000004", "step-00000008"]
    scorers = [load(str(parts), checkpoint=name) for name in (None, "step-00000004")]
    assert scorers[0].id == resumed.id != scorers[1].id
    with pytest.raises(EvalError, match=r"step-1\.safetensors"):
        load(str(parts), checkpoint="step-1")
