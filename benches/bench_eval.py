"""Evaluation speed: ARC-easy with 10 shots against lm-evaluation-harness and a padded loop.

    python benches/bench_eval.py [--data DIR] [--tokenizer FILE] [--small 300] [--large 24]
                                [--dry]

Three ways to score the same token ids with the same random OpenLM in the same process, dtype and
number of threads:

- ours: `OpenLMScorer`, building and tokenising the prompts included, the mean of a run before the
  peer and one after it;
- lm-evaluation-harness: `HFLM._loglikelihood_tokens` given our ids, at the fastest of several batch
  sizes, tokenisation not counted; it runs in a virtual environment of its own;
- the padded loop: rows of 2,048 tokens, two at a time, logits everywhere, as the reference does.
  All rows cost the same there, so it is timed on some and multiplied.

Times are CPU-seconds of the process. Predictions of all three must be equal. `--dry` asks four
questions of the small model: its rows are not measurements and go to eval-dry.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
PEER = "lm_eval[hf]==0.4.13"
WINDOW = 2048
BATCH_SIZES = (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    fixtures = ROOT.parent / "shared" / "fixtures" / "dclm-eval"
    parser.add_argument("--data", type=Path, default=fixtures / "local_data")
    parser.add_argument(
        "--tokenizer", type=Path, default=fixtures / "gpt-neox-20b-tokenizer" / "tokenizer.json"
    )
    parser.add_argument("--small", type=int, default=300, help="questions for the 2-layer model")
    parser.add_argument("--large", type=int, default=24, help="questions for the 100M model")
    parser.add_argument("--dry", action="store_true", help="toy sizes: does it run at all?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        again = [str(_peer_python()), __file__, "--inside", *sys.argv[1:]]
        raise SystemExit(subprocess.run(again, env=_environment(arguments.threads)).returncode)
    if arguments.dry:
        arguments.small, arguments.large = 4, 0
    rows = []
    for name, layers, dim, count in (
        ("2 layers", 2, 256, arguments.small),
        ("100M parameters", 12, 512, arguments.large),
    ):
        if count == 0:
            continue
        rows += measure(name, layers, dim, count, arguments.data, arguments.tokenizer)
    report = {
        "machine": f"{platform.machine()}, {arguments.threads} thread(s) of {os.cpu_count()}",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    name = "eval-dry" if arguments.dry else "eval"
    (BUILD / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'work':48} {'ours':>9} {'peer':>9} {'ratio':>7}  peer")
    for row in rows:
        peer = "-" if row["peer"] is None else f"{row['peer']:9.2f}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:7.1f}"
        print(f"{row['work']:48} {row['ours']:9.2f} {peer:>9} {ratio:>7}  {row['peer_name']}")


def _peer_python() -> Path:
    """The interpreter of an environment with the peer; it also sees what this one has."""
    venv = BUILD / "venv-eval"
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        ours = next(p for p in reversed(sys.path) if (Path(p) / "torch").is_dir())
        (next(venv.glob("lib/*/site-packages")) / "ours.pth").write_text(ours + "\n")
    probe = subprocess.run(
        [str(python), "-c", "import lm_eval.models.huggingface"], capture_output=True
    )
    if probe.returncode != 0:
        subprocess.run([str(python), "-m", "pip", "install", "-q", PEER])
    return python


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    fixed = dict.fromkeys(names, str(threads))
    return {**os.environ, **fixed, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}


def measure(
    name: str, layers: int, dim: int, count: int, data: Path, tokenizer: Path
) -> list[dict[str, Any]]:
    import torch
    from tokenizers import Tokenizer

    from dclm.eval_model import OpenLMScorer
    from dclm.recipe import ModelConfig
    from dclm.training.model import OpenLM
    from evals.kinds import kind_of, read_data
    from evals.tasks import load_task
    from evals.text.language import Prompts

    task = load_task("arc_easy")
    loaded = read_data(task, data)
    config = ModelConfig(
        vocab_size=50432, dim=dim, num_layers=layers, num_heads=dim // 64, seq_len=WINDOW
    )
    torch.manual_seed(0)
    model = OpenLM(config)
    scorer = OpenLMScorer(model, Tokenizer.from_file(str(tokenizer)), id="0" * 32, document_start=0)
    scorer.score(Prompts(task, loaded.items, scorer).requests([0], window=WINDOW)[0].query())

    def ours() -> list[int]:
        log = kind_of(task).answer(task, loaded, range(count), scorer, window=WINDOW)
        return [int(item) for item in log["predicted"].to_pylist()]

    rates = [calibration()]
    predictions, before = timed(ours)
    asked = Prompts(task, loaded.items, scorer).requests(range(count), window=WINDOW)
    pairs = [(o.context.tolist(), o.answer.tolist()) for r in asked for o in r.options]
    work = f"ARC-easy, 10 shots, {name}, {count} questions"
    rows = []
    peer, best = lm_eval_seconds(model, tokenizer, pairs, predictions)
    rates.append(calibration())
    _, after = timed(ours)
    rates.append(calibration())
    seconds = (before + after) / 2  # the peer ran between, on a machine that others may share
    print(f"{name}: matrix product {', '.join(f'{rate:.0f}' for rate in rates)} GFLOP/s")
    rows.append(_row(work, seconds, peer, f"lm-evaluation-harness, batch {best}", 4.0))
    padded, fraction = padded_seconds(model, pairs)
    rows.append(_row(work, seconds, padded, f"padded to {WINDOW}, batch 2 ({fraction})", 8.0))
    return rows


def _row(
    work: str, ours: float, peer: float | None, peer_name: str, at_least: float
) -> dict[str, Any]:
    return {
        "work": work,
        "ours": round(ours, 3),
        "unit": "CPU-seconds",
        "peer": None if peer is None else round(peer, 3),
        "peer_name": peer_name,
        "ratio": None if peer is None else round(peer / ours, 2),
        "at_least": at_least,
    }


def calibration() -> float:
    """Billions of operations in a CPU-second of a matrix product of the models' size."""
    import torch

    a, b = torch.ones(2048, 512), torch.ones(512, 1536)
    _, seconds = timed(lambda: [a @ b for _ in range(100)])
    return 2 * 2048 * 512 * 1536 * 100 / seconds / 1e9


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def options_of(num_pairs: int) -> list[range]:
    return [range(start, start + 4) for start in range(0, num_pairs, 4)]


def lm_eval_seconds(
    model: Any, tokenizer: Path, pairs: list[tuple[list[int], list[int]]], predictions: list[int]
) -> tuple[float | None, str]:
    """All requests at the batch size that is fastest on a tenth of them.

    None, with the reason, when the peer is not there.
    """
    try:
        from lm_eval.models.huggingface import HFLM
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        return None, f"not installed: {error}"
    wrapped = _as_transformers(model)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|endoftext|>")
    requests = [((str(i), ""), context, answer) for i, (context, answer) in enumerate(pairs)]

    def score(batch: int, asked: list[Any]) -> tuple[list[Any], float]:
        peer = HFLM(pretrained=wrapped, tokenizer=fast, batch_size=batch, max_length=WINDOW)
        return timed(lambda: peer._loglikelihood_tokens(asked, disable_tqdm=True))

    trial = requests[: max(16, len(requests) // 10)]
    best = min(BATCH_SIZES, key=lambda batch: score(batch, trial)[1])
    scores, seconds = score(best, requests)
    means = [-score / len(pairs[i][1]) for i, (score, _) in enumerate(scores)]
    theirs = [min(group, key=means.__getitem__) - group[0] for group in options_of(len(pairs))]
    assert theirs == predictions, "the predictions differ"
    return seconds, str(best)


def _as_transformers(model: Any) -> Any:
    """The same weights behind the interface of transformers: ids in, logits of all tokens out."""
    import torch
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class Wrapped(PreTrainedModel):
        config_class = PretrainedConfig

        def __init__(self) -> None:
            super().__init__(PretrainedConfig(vocab_size=model.config.vocab_size))
            self.inner = model

        def tie_weights(self, *args: Any, **named: Any) -> None:
            """Nothing is tied."""

        def forward(self, input_ids: torch.Tensor, **ignored: Any) -> CausalLMOutput:
            return CausalLMOutput(logits=self.inner(input_ids))

    return Wrapped().eval()


def padded_seconds(
    model: Any, pairs: list[tuple[list[int], list[int]]], *, num_timed: int = 8
) -> tuple[float, str]:
    """Rows of WINDOW tokens, two at a time, full logits."""
    import torch

    def loop() -> list[float]:
        means = []
        for start in range(0, num_timed, 2):
            batch = torch.zeros(2, WINDOW, dtype=torch.int64)
            rows = [context + answer for context, answer in pairs[start : start + 2]]
            for line, row in enumerate(rows):
                batch[line, : len(row)] = torch.tensor(row)
            with torch.inference_mode():
                logits = model(batch)
            for line, row in enumerate(rows):
                length = len(pairs[start + line][1])
                span = logits[line, len(row) - length - 1 : len(row) - 1]
                target = torch.tensor(row[-length:])
                means.append(float(torch.nn.functional.cross_entropy(span, target)))
        return means

    _, seconds = timed(loop)
    return seconds * len(pairs) / num_timed, f"{num_timed} of {len(pairs)} rows timed"


if __name__ == "__main__":
    main()
