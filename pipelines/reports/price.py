"""What a finished run costs, step by step, at stated prices: CPUs, GPUs and tokens of models."""

from __future__ import annotations

from pipelines.console import table
from pipelines.engine.run_folder import RunSummary
from pipelines.records import Frozen
from pipelines.stats import ON_GPU


class StepPrice(Frozen):
    """One step's share. `model_dollars` is what the steps' own prices for tokens come to."""

    step: int
    name: str
    cpu_seconds: float
    gpu_seconds: float
    tokens_read: int
    tokens_written: int
    cpu_dollars: float
    gpu_dollars: float
    model_dollars: float


class Price(Frozen):
    """All steps, and the whole by document and by gigabyte of text that is kept."""

    steps: tuple[StepPrice, ...]
    dollars_cpu_hour: float
    dollars_gpu_hour: float
    dollars: float
    rows_out: int
    bytes_out: int


def price(summary: RunSummary, *, dollars_cpu_hour: float, dollars_gpu_hour: float) -> Price:
    """The cost of each step at these prices of a core and of a GPU for an hour.

    Seconds are CPU seconds of the processes that ran the steps, and the time that a step held GPUs,
    times their number; GPUs behind an endpoint are in the price of its tokens. Step 0 reads and
    writes.
    """
    steps = []
    for step in summary.stats.steps:
        seconds, counts = summary.seconds.get(str(step.number), 0.0), step.counters
        on_gpus = summary.seconds.get(f"{step.number}{ON_GPU}", 0.0)
        steps.append(
            StepPrice(
                step=step.number + 1,
                name=step.name,
                cpu_seconds=round(seconds, 3),
                gpu_seconds=round(on_gpus, 3),
                tokens_read=counts.get("tokens_read", 0),
                tokens_written=counts.get("tokens_written", 0),
                cpu_dollars=seconds / 3600 * dollars_cpu_hour,
                gpu_dollars=on_gpus / 3600 * dollars_gpu_hour,
                model_dollars=counts.get("micro_dollars", 0) / 1e6,
            )
        )
    last = summary.stats.steps[-1] if summary.stats.steps else None
    return Price(
        steps=tuple(steps),
        dollars_cpu_hour=dollars_cpu_hour,
        dollars_gpu_hour=dollars_gpu_hour,
        dollars=sum(s.cpu_dollars + s.gpu_dollars + s.model_dollars for s in steps),
        rows_out=last.rows_out if last else 0,
        bytes_out=last.bytes_out if last else 0,
    )


def price_text(made: Price) -> str:
    """For a terminal."""
    rows = [
        (
            step.step or "-",
            step.name,
            f"{step.cpu_seconds:.2f}",
            f"{step.gpu_seconds:.2f}",
            f"{step.tokens_read:,}",
            f"{step.tokens_written:,}",
            f"{step.cpu_dollars:.3g}",
            f"{step.gpu_dollars:.3g}",
            f"{step.model_dollars:.3g}",
        )
        for step in made.steps
    ]
    seconds, tokens = ("cpu s", "gpu s"), ("tokens read", "written")
    header = ("step", "operator", *seconds, *tokens, "cpu $", "gpu $", "model $")
    per = ""
    if made.rows_out and made.bytes_out:
        each = made.dollars / made.rows_out * 1e6
        per = (
            f"; ${each:,.3g} a million documents, ${made.dollars / made.bytes_out * 1e9:,.3g} a GB"
        )
    return f"{table(rows, header=header)}\n\n${made.dollars:.3g} in all{per}"
