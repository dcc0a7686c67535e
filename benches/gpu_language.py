"""Rows of bench_gpu.py for language models: correctness, training, the wall time of CORE."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from torch._dynamo.utils import counters
from torch.distributed.fsdp import FSDPModule

from dclm.eval_model import OpenLMScorer, Precision
from dclm.packing.loader import Sequences
from dclm.packing.openlm_format import ManifestRow, write_manifest
from dclm.packing.pack import MANIFEST, RECORD
from dclm.plan import memory_per_gpu, micro_batch
from dclm.recipe import ModelConfig, Recipe, load_recipe
from dclm.training.model import OpenLM
from dclm.training.parallel import build, fast_attention, processes
from evals.models import Query
from leaderboard.rounds.gpus import GPUS, RESERVED
from pipelines.formats.writers import write_array
from pipelines.records import AssetRef, PackedRecord, PackedWork, made_by, now
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store

if TYPE_CHECKING:
    from gpu_run import Measured, Run

SHAPES = ("25m", "400m-1x", "1b-1x")
GOALS = {"400m-1x": 0.37, "1b-1x": 0.46}  # share of the peak, kind `final`; docs/training.md
CORE_MINUTES = {"400m-1x": 5.0, "1b-1x": 14.0}
PEAK = GPUS["h100"].peak_flops  # an H200 has the same
ACCUMULATION = 4  # micro-batches in a timed step
TOKENIZER = Path(__file__).parent.parent / "dclm" / "assets" / "tiny-bpe.json"
TOY = ModelConfig(vocab_size=512, dim=64, num_layers=2, num_heads=2, seq_len=64)


def _recipe(run: Run, shape: str) -> Recipe:
    """The recipe of a scale; in a dry run with a toy model, and as many sequences a step."""
    recipe = load_recipe(shape)
    if not run.dry:
        return recipe
    short = {"name": "tiny-bpe", "sha256": None, "end_of_text": 0, "pad": 511}
    spec = recipe.tokenizer.model_copy(update=short)
    return recipe.model_copy(update={"model": TOY, "tokenizer": spec, "global_batch_size": 8})


# ---- Correctness --------------------------------------------------------------------------------


def correctness(run: Run) -> None:
    recipe = _recipe(run, "400m-1x")
    run.row(
        "loss of 64 sequences, 411M, bf16 against float32",
        "relative difference",
        lambda: _loss_difference(run, recipe),
        limit=60,
        floor=1e-3,
        less=True,
    )
    trained: list[OpenLM] = []
    for name, precision, floor in (
        ("float32 fast path", "fp32", 1.0),
        ("bf16 fast path", "bf16", 0.99),
    ):
        run.row(
            f"greedy tokens, {name} equal to the exact float32 path",
            "share",
            lambda precision=precision: _equal_answers(run, precision, trained),  # type: ignore[misc]
            limit=60,
            floor=floor,
        )


@contextmanager
def _whole_float32(device: torch.device) -> Iterator[None]:
    """Products of float32 without TF32, which `processes` allows for training."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _loss_difference(run: Run, recipe: Recipe) -> Measured:
    """Of the mean loss, between the trained form (FSDP2, bf16, chunked head) and plain float32."""
    length = recipe.model.seq_len + 1
    ids = np.random.default_rng(0).integers(1, recipe.model.vocab_size - 200, (64, length))
    tokens = torch.from_numpy(ids).to(run.device)
    losses: dict[str, list[float]] = {}
    with processes(recipe) as (_, _, device, mesh):
        with torch.device(device):  # drawn on the GPU: the same numbers as the next model's
            model = build(recipe, 0, device, mesh, compiled=device.type == "cuda")
        with fast_attention(device), torch.no_grad():
            losses["bf16"] = [float(_chunked_loss(model, part, recipe)) for part in tokens.split(4)]
        del model
    torch.manual_seed(0)
    with torch.device(run.device):
        plain = OpenLM(recipe.model)
    with _whole_float32(run.device), torch.no_grad():
        losses["fp32"] = [float(_plain_loss(plain, part, recipe)) for part in tokens.split(4)]
    ours, reference = np.array(losses["bf16"]), np.array(losses["fp32"])
    worst = float(np.abs(ours - reference).max())
    difference = abs(float(ours.mean() / reference.mean()) - 1)
    return difference, {"loss": float(reference.mean()), "worst_of_4_sequences": worst}


def _equal_answers(run: Run, precision: Precision, trained: list[OpenLM]) -> Measured:
    """Share of equal tokens in 64 greedy answers of 16, by a model that is sure of them."""
    config = TOY if run.dry else load_recipe("25m").model
    follows = np.random.default_rng(1).permutation(np.arange(1, 65))  # what comes after id 1 + n
    if not trained:
        trained.append(_learn(config, follows, run))
    asked, length = (8, 4) if run.dry else (64, 16)
    contexts = [_walk(follows, first, 8 + first % 40) for first in range(1, asked + 1)]
    answers = {}
    with _whole_float32(run.device):
        for name, chosen, exact in (("exact", "fp32", True), ("ours", precision, False)):
            copy = OpenLM(config)
            copy.load_state_dict(trained[0].state_dict())
            scorer = OpenLMScorer(
                copy,
                Tokenizer.from_file(str(TOKENIZER)),
                id="0" * 32,
                document_start=0,
                device=run.device.type,
                precision=chosen,  # type: ignore[arg-type]
                exact=exact,
            )
            texts = scorer.generate(contexts, max_new_tokens=length, is_done=lambda _: False)
            queries = [Query(context, (_walk(follows, 1, 9),) * 2) for context in contexts]
            scored = [item.greedy for options in scorer.score(queries) for item in options]
            answers[name] = np.concatenate([np.ravel(texts), *scored])
    expected = [_walk(follows, int(follows[int(context[-1]) - 1]), length) for context in contexts]
    learnt = float((answers["exact"][: asked * length] == np.ravel(expected)).mean())
    if learnt < 0.95:
        raise RuntimeError(f"the model learnt {learnt:.0%} of its answers: nothing is compared")
    return float((answers["exact"] == answers["ours"]).mean()), {"learnt": learnt}


def _walk(follows: np.ndarray, first: int, length: int) -> np.ndarray:
    ids = [first]
    while len(ids) < length:
        ids.append(int(follows[ids[-1] - 1]))
    return np.array(ids, np.int32)


def _learn(config: ModelConfig, follows: np.ndarray, run: Run) -> OpenLM:
    """A float32 model that was taught which id follows which."""
    torch.manual_seed(0)
    model = OpenLM(config).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    chance = np.random.default_rng(2)
    for _ in range(150 if not run.dry else 80):
        rows = np.stack([_walk(follows, int(n), 65) for n in chance.integers(1, 65, 32)])
        tokens = torch.from_numpy(rows).long().to(run.device)
        logits = model(tokens[:, :-1]).flatten(0, 1)
        F.cross_entropy(logits, tokens[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


# ---- Training -----------------------------------------------------------------------------------


def training(run: Run, kinds: tuple[str, ...]) -> None:
    for shape in SHAPES if not run.dry else SHAPES[:2]:
        if shape == "25m" and "final" not in kinds:
            continue  # it warms up; its own figures are of no use
        for kind in kinds:
            run.row(
                f"train {shape}, {kind}",
                "tokens/s",
                lambda shape=shape, kind=kind: _train(run, shape, kind),  # type: ignore[misc]
                limit=100 if kind == "final" else 45,
                floor=None
                if kind != "final" or shape not in GOALS
                else GOALS[shape] * PEAK / (6 * load_recipe(shape).counted_params),
            )


def _train(run: Run, shape: str, kind: str) -> Measured:
    """The speed at the micro-batch that the plan gives, or at the largest half of it that fits."""
    recipe = _recipe(run, shape)
    planned = fitting = _fitting(recipe, kind, run.device)
    while True:
        try:
            speed, more = _train_with(run, recipe, kind, fitting)
            return speed, more | {"micro_batch": fitting, "planned_micro_batch": planned}
        except torch.OutOfMemoryError:
            if fitting == 1:
                raise
        fitting //= 2
        gc.collect()
        torch.cuda.empty_cache()


def _train_with(run: Run, recipe: Recipe, kind: str, fitting: int) -> Measured:
    """Steps as `dclm train` makes them: data, forward, backward, clipping, optimizer."""
    seconds = 0.2 if run.dry else 10.0
    counters.clear()
    with tempfile.TemporaryDirectory() as folder, processes(recipe) as (_, _, device, mesh):
        data = _packed(Path(folder), recipe, 16 if run.dry else 2048)
        with torch.device(device):
            model = build(
                recipe, 0, device, mesh, compiled=kind == "final" and device.type == "cuda"
            )
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=recipe.learning_rate / 10,  # random ids: it shall not diverge while it is timed
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        loss = _plain_loss if kind == "plain" else _chunked_loss
        position = 0

        def step() -> None:
            nonlocal position
            rows = torch.from_numpy(data.batch(position, fitting * ACCUMULATION))
            position += len(rows)
            if device.type == "cuda":
                rows = rows.pin_memory().to(device, non_blocking=True)
            for part in range(ACCUMULATION):
                if isinstance(model, FSDPModule):
                    model.set_requires_gradient_sync(part + 1 == ACCUMULATION)
                tokens = rows[part * fitting : (part + 1) * fitting]
                (loss(model, tokens, recipe) / ACCUMULATION).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()

        with fast_attention(device):
            began = time.monotonic()
            for _ in range(2 if run.dry else 4):
                step()
            _wait(device)
            warm, started, steps = time.monotonic() - began, time.monotonic(), 0
            while time.monotonic() - started < seconds:
                step()
                steps += 1
                _wait(device)
            spent = time.monotonic() - started
    speed = steps * ACCUMULATION * fitting * recipe.model.seq_len / spent
    more: dict[str, Any] = {
        "share_of_peak": round(6 * recipe.counted_params * speed / PEAK, 4),
        "steps": steps,
        "warm_up_seconds": round(warm, 1),
    }
    if device.type == "cuda":
        more["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        more["graphs"] = counters["stats"]["unique_graphs"]
        more["graph_breaks"] = sum(counters["graph_break"].values())
    return speed, more


def _fitting(recipe: Recipe, kind: str, device: torch.device) -> int:
    """Sequences of one forward."""
    if device.type == "cpu":
        return 2
    memory = torch.cuda.get_device_properties(device).total_memory
    fitting = micro_batch(recipe, num_gpus=1, memory_bytes=memory)
    if fitting is None:
        raise RuntimeError("not even one sequence fits this GPU")
    while kind == "plain" and fitting > 1:  # whole logits: four to five float32 copies of them
        logits = fitting * recipe.model.seq_len * recipe.model.vocab_size * 20
        rest = memory_per_gpu(recipe, num_gpus=1, micro_batch=fitting)
        if rest + logits <= (1 - RESERVED) * memory:
            break
        fitting //= 2
    return fitting


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _plain_loss(model: OpenLM, tokens: Tensor, recipe: Recipe) -> Tensor:
    logits = model(tokens[:, :-1]).flatten(0, 1)
    z = logits.logsumexp(1).square().mean()
    return F.cross_entropy(logits, tokens[:, 1:].flatten()) + recipe.z_loss * z


def _chunked_loss(model: OpenLM, tokens: Tensor, recipe: Recipe) -> Tensor:
    pad = recipe.tokenizer.pad
    return model.loss(tokens[:, :-1], tokens[:, 1:], z_loss=recipe.z_loss, ignore=pad)[0]


def _packed(folder: Path, recipe: Recipe, num_sequences: int) -> Sequences:
    """Random ids packed for a recipe, read by training's own loader."""
    store = open_store(folder)
    length, vocabulary = recipe.model.seq_len + 1, recipe.model.vocab_size
    ids = np.random.default_rng(3).integers(1, vocabulary - 200, (num_sequences, length))
    shard = write_array(store, "00000.npy", ids.astype(np.uint16))
    rows = [ManifestRow(shard="00000", num_sequences=num_sequences)]
    manifest = write_bytes(store, MANIFEST, write_manifest(rows))
    record = PackedRecord.seal(
        work=PackedWork(
            tokenizer=AssetRef(name=recipe.tokenizer.name, sha256="0" * 64),
            sequence_length=recipe.model.seq_len,
            seed=recipe.data_seed,
            mode="lossless",
            layout="npy",
            parameters={"vocab_size": vocabulary, "pad": recipe.tokenizer.pad},
        ),
        parents={"dataset": "0" * 32},
        outputs=[shard, manifest],
        made_by=made_by(now()),
    )
    write_bytes(store, RECORD, record.to_json())
    least = recipe.model_copy(update={"global_batch_size": min(num_sequences, 8)})
    return Sequences(str(folder), recipe=least)


# ---- CORE ---------------------------------------------------------------------------------------


class Lengths(NamedTuple):
    """A task's questions in tokens of gpt-neox-20b: quantiles at 10, 30, 50, 70 and 90 %.

    Taken on 200 questions of the real file, few-shot examples included. Where `estimated` is true
    the file was not at hand and the lengths are an estimate from the task's description.
    """

    rows: int
    contexts: int  # a schema has two, with one answer each
    options: int
    context: tuple[int, ...]
    answer: tuple[int, ...]
    estimated: bool = False


CORE = {
    "hellaswag_zeroshot": Lengths(10042, 1, 4, (20, 35, 50, 70, 110), (15, 25, 32, 38, 50), True),
    "jeopardy": Lengths(2117, 1, 1, (292, 315, 333, 349, 370), (1, 2, 2, 3, 4)),
    "bigbench_qa_wikidata": Lengths(20321, 1, 1, (108, 114, 119, 122, 129), (1, 1, 1, 1, 2)),
    "arc_easy": Lengths(2376, 1, 4, (293, 333, 360, 384, 425), (1, 2, 3, 6, 9)),
    "arc_challenge": Lengths(1172, 1, 4, (351, 384, 420, 454, 496), (1, 3, 6, 8, 11)),
    "copa": Lengths(100, 1, 2, (6, 8, 9, 10, 11), (5, 6, 6, 8, 9)),
    "commonsense_qa": Lengths(1221, 1, 4, (466, 484, 495, 505, 520), (1, 1, 1, 1, 1)),
    "piqa": Lengths(1838, 1, 2, (296, 337, 377, 418, 479), (6, 10, 15, 25, 47)),
    "openbook_qa": Lengths(500, 1, 4, (5, 8, 9, 13, 20), (1, 2, 3, 4, 6)),
    "lambada_openai": Lengths(5153, 1, 1, (67, 72, 77, 83, 98), (1, 1, 1, 2, 2)),
    "hellaswag": Lengths(10042, 1, 4, (850, 950, 1010, 1080, 1180), (15, 25, 32, 38, 50), True),
    "winograd": Lengths(273, 2, 1, (9, 11, 13, 16, 24), (2, 3, 4, 6, 8)),
    "winogrande": Lengths(1267, 2, 1, (12, 14, 16, 19, 22), (3, 4, 5, 6, 8)),
    "bigbench_dyck_languages": Lengths(1000, 1, 1, (462, 521, 566, 614, 710), (1, 1, 2, 2, 3)),
    "agi_eval_lsat_ar": Lengths(230, 1, 4, (787, 841, 881, 910, 985), (1, 1, 1, 1, 1)),
    "bigbench_cs_algorithms": Lengths(1320, 1, 1, (396, 418, 435, 454, 475), (1, 1, 1, 1, 1)),
    "bigbench_operators": Lengths(210, 1, 1, (377, 395, 403, 414, 432), (1, 1, 1, 1, 1)),
    "bigbench_repeat_copy_logic": Lengths(32, 1, 1, (438, 455, 465, 476, 503), (6, 11, 13, 19, 29)),
    "squad": Lengths(10570, 1, 1, (1550, 1720, 1840, 1960, 2040), (1, 2, 3, 4, 8), True),
    "coqa": Lengths(7983, 1, 1, (330, 400, 450, 510, 620), (1, 2, 3, 4, 6), True),
    "boolq": Lengths(3270, 1, 2, (1302, 1431, 1546, 1655, 1871), (1, 1, 1, 1, 1)),
    "bigbench_language_identification": Lengths(
        10000, 1, 4, (1203, 1335, 1441, 1589, 1800), (1, 1, 1, 1, 1)
    ),
}
CHUNK = 256  # questions that evaluation asks at a time


def core(run: Run, shape: str) -> None:
    run.row(
        f"CORE, {shape}, bf16, one GPU",
        "minutes",
        lambda: _core(run, _recipe(run, shape).model),
        limit=110,
        floor=CORE_MINUTES[shape],
        less=True,
    )


def _core(run: Run, config: ModelConfig) -> Measured:
    """One chunk of every task's questions, timed, times the number of its chunks.

    Ids are random and of the real lengths; making and tokenising prompts is not in it.
    """
    torch.manual_seed(0)
    with torch.device(run.device):
        model = OpenLM(config)
    num_params = sum(value.numel() for value in model.parameters())
    scorer = OpenLMScorer(
        model,
        Tokenizer.from_file(str(TOKENIZER)),
        id="0" * 32,
        document_start=0,
        device=run.device.type,
        precision="bf16",
    )
    chance = np.random.default_rng(4)
    count = 2 if run.dry else CHUNK
    for name in ("boolq", "arc_easy", "lambada_openai"):
        scorer.score(_questions(CORE[name], min(count, 64), config, chance))
    seconds, tokens, by_task = 0.0, 0.0, {}
    for name, task in CORE.items():
        asked = min(count, task.rows)
        queries = _questions(task, asked, config, chance)
        _wait(run.device)
        began = time.monotonic()
        scorer.score(queries)
        _wait(run.device)
        spent = (time.monotonic() - began) * task.rows / asked
        seconds += spent
        by_task[name] = round(spent, 1)
        read = sum(len(q.context) + sum(map(len, q.continuations)) for q in queries)
        tokens += read * task.rows / asked
    estimated = sum(task.rows for task in CORE.values() if task.estimated)
    return seconds / 60, {
        "tokens": round(tokens),
        "tokens_per_second": round(tokens / seconds),
        "share_of_peak": round(2 * num_params * tokens / seconds / PEAK, 4),
        "questions": sum(task.rows for task in CORE.values()),
        "questions_with_estimated_lengths": estimated,
        "seconds_by_task": by_task,
        "note": f"extrapolated from {count} questions of each task",
    }


def _questions(
    task: Lengths, count: int, config: ModelConfig, chance: np.random.Generator
) -> list[Query]:
    longest = 2048 if config.seq_len >= 2048 else config.seq_len

    def ids(quantiles: tuple[int, ...], most: int) -> np.ndarray:
        size = np.interp(chance.random(), (0.1, 0.3, 0.5, 0.7, 0.9), quantiles)
        return chance.integers(1, config.vocab_size, max(1, min(most, round(size)))).astype(
            np.int32
        )

    queries = []
    for _ in range(count):
        answers = tuple(ids(task.answer, longest // 4) for _ in range(task.options))
        room = longest - max(map(len, answers))
        queries += [Query(ids(task.context, room), answers) for _ in range(task.contexts)]
    return queries
