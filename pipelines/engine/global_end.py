"""The global step at the end of a pass: find a cut, group duplicates, or fold the shards in order.

The results of each deduplication are kept until the run ends and written to its report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.assets.catalogue import Assets
from pipelines.engine.fold import FoldTask, groups_of, run_fold
from pipelines.engine.run_checks import check_kinds
from pipelines.engine.shard_files import done_file, role, rows_left, steps_of, written
from pipelines.errors import PipelineError
from pipelines.execution.executors import MapTasks, Needs, Placed, room_for
from pipelines.execution.monitor import Watch
from pipelines.formats.pool import Pool
from pipelines.global_steps.duplicate_record import (
    FilterState,
    Groups,
    Report,
    write_report,
)
from pipelines.global_steps.exact_cut import find_cut
from pipelines.global_steps.group_keys import find_duplicates
from pipelines.global_steps.losses import Loss, check_losses, losses_of
from pipelines.global_steps.near_duplicates import find_linked
from pipelines.global_steps.repeated_spans import find_spans
from pipelines.global_steps.vector_groups import find_similar
from pipelines.job import Held, Plan
from pipelines.operators import Dedup, Fold, Select, SpanDedup
from pipelines.pipeline import Pipeline, Step
from pipelines.records import (
    JSON,
    digest,
)
from pipelines.stats import RunStats, StepStats, add_counts
from pipelines.storage.base import Store
from pipelines.storage.commits import Done
from pipelines.verdict import Verdict


class GlobalSteps:
    """The global steps of one run, and their results for its reports."""

    def __init__(
        self,
        plan: Plan,
        pipeline: Pipeline,
        pool: Pool,
        store: Store,
        watch: Watch,
        map_tasks: MapTasks,
    ) -> None:
        self.plan, self.pipeline, self.pool, self.store = plan, pipeline, pool, store
        self.watch, self.map_tasks = watch, map_tasks
        self.verdicts: dict[str, JSON] = {}
        self.groups: dict[int, Groups] = {}  # by the number of the step
        self.filters: dict[int, tuple[FilterState, ...]] = {}
        self.removed: dict[int, dict[str, int]] = {}
        self.losses: dict[int, tuple[Loss, ...]] = {}

    def end(
        self,
        step: Step,
        state: JSON,
        done: Sequence[Done],
        inputs: list[Held],
        stats: list[Sequence[StepStats]],
    ) -> tuple[Verdict | None, list[str | None], list[Held]]:
        """Run a global step: its verdict, the score files of a select, and the next pass's inputs.

        A fold has no verdict; its tables are the inputs. PipelineError when a select cannot cut.
        """
        operator = step.operator
        nothing: list[str | None] = [None] * len(inputs)
        if isinstance(operator, Fold):
            inputs = self._fold(step, operator, state, inputs, stats)
            return None, nothing, inputs
        if isinstance(operator, Dedup):
            verdict, groups = self._duplicates(step, operator, state, done, inputs)
            self.groups[step.number] = groups
            examples = tuple((group.row, group.unit) for group in groups.largest)
            return verdict.model_copy(update={"examples": examples}), nothing, inputs
        assert isinstance(operator, Select)
        scores = [written(result, "scores") for result in done]
        try:
            verdict = find_cut(
                operator,
                uri=self.store.uri,
                scores=scores,
                weights=[role(result, "weights") for result in done],
                amount=sum(result.stats["amount"] for result in done),
                map_tasks=self.watch.named(self._title(step)),
            )
        except ValueError as error:
            raise PipelineError(f"{self.pipeline.name}: {step.label}: {error}") from None
        self.verdicts[str(step.number)] = {"threshold_bits": str(verdict.threshold)}
        return verdict, list(scores), inputs

    def _duplicates(
        self, step: Step, operator: Dedup, state: JSON, done: Sequence[Done], inputs: list[Held]
    ) -> tuple[Verdict, Groups]:
        check_kinds(step, done, [shard.name for shard in self.pool.shards])
        given: dict[str, Any] = {
            "step": step.number,
            "state": digest(state),
            "files": [written(result, "keys") for result in done],
            "map_tasks": self.watch.named(self._title(step)),
        }
        if isinstance(operator, SpanDedup):
            return find_spans(self.store, plan=self.plan, inputs=inputs, **given)
        filled = [result for result in done if done_file(result, "keys").num_rows]
        rank = filled[0].stats["rank"] if filled else "uint8"
        given["files"] = [written(result, "keys") for result in filled]
        if operator.linked:
            compared = sum(rows_left(result) for result in done)
            sketches = [role(result, "sketches") for result in done]
            return find_linked(
                self.store, plan=self.plan, sketches=sketches, rank=rank, compared=compared, **given
            )
        parts = self.plan.num_partitions
        given["shards"] = len(inputs)
        if operator.pairwise:
            least = operator.min_similarity()
            assert least is not None
            return find_similar(self.store, rank=rank, least=least, num_partitions=parts, **given)
        return find_duplicates(self.store, rank=rank, num_partitions=parts, **given)

    def _fold(
        self,
        step: Step,
        operator: Fold,
        state: JSON,
        inputs: list[Held],
        stats: list[Sequence[StepStats]],
    ) -> list[Held]:
        groups = groups_of(len(inputs), operator.groups)
        tasks = [
            FoldTask(
                plan=self.plan,
                step=step.number,
                key=f"f{step.number}-{number:05d}-{digest([state, len(groups)])[:16]}",
                group=number,
                shards=shards,
                names=tuple(self.pool.shards[shard].name for shard in shards),
                inputs=tuple(inputs[shard] for shard in shards),
            )
            for number, shards in enumerate(groups)
        ]
        done = self.watch.stage(
            self._title(step),
            run_fold,
            tasks,
            unit="groups",
            needs=needs_of([step], self.pipeline.assets, self.map_tasks),
        )
        stats += [steps_of(result) for result in done]
        self.removed[step.number] = _added(result.stats["removed"] for result in done)
        self.filters[step.number] = tuple(
            FilterState(group=number + 1, **result.stats["state"])
            for number, result in enumerate(done)
            if result.stats["state"]
        )
        return [
            Held(work=True, name=written(result, f"table/{shard}"))
            for result, shards in zip(done, groups, strict=True)
            for shard in shards
        ]

    def note_removed(self, end: Step | None, done: Sequence[Done]) -> None:
        """Add the counts of the pass after a deduplication to its report.

        Raises when the deduplication removed more than its limit (`check_losses`).
        """
        if end is None or end.number not in self.groups:
            return
        groups = self.groups[end.number]
        texts = {
            (row, unit): text for result in done for row, unit, text in result.stats["examples"]
        }
        largest = tuple(
            group.model_copy(update={"example": texts.get((group.row, group.unit))})
            for group in groups.largest
        )
        self.groups[end.number] = groups.model_copy(update={"largest": largest})
        self.removed[end.number] = _added(result.stats["removed"] for result in done)
        parts = [result.stats.get("losses", {}) for result in done]
        self.losses[end.number] = losses_of(parts)
        most = end.operator.max_loss() if isinstance(end.operator, Dedup) else None
        if most is not None:
            check_losses(parts, most=most, label=end.label)

    def write_reports(self, stats: RunStats) -> None:
        """Write the report of each deduplication next to its pairs of duplicates."""
        for number in sorted(self.removed):
            counts = stats.step(number)
            report = Report(
                step=number + 1,
                operator=counts.name,
                kind=counts.kind,
                rows_in=counts.rows_in,
                rejected=counts.rejected,
                removed_bytes=self.removed[number],
                groups=self.groups.get(number),
                filters=self.filters.get(number, ()),
                losses=self.losses.get(number, ()),
            )
            write_report(self.store, report)

    def _title(self, step: Step) -> str:
        return f"{self.pipeline.name}: {step.name}"


def needs_of(steps: Sequence[Step], assets: Assets, map_tasks: MapTasks) -> Needs | None:
    """GPUs and memory that a task of these steps needs; None if tasks cannot be placed.

    A worker holds the models and lists of all steps, each of about the size of its file.
    """
    if not isinstance(map_tasks, Placed):
        return None
    names = sorted({name for step in steps for name in step.operator.assets()})
    model_bytes = sum(assets.path(name).stat().st_size for name in names)
    needs = Needs(memory_bytes=room_for(model_bytes))
    for step in steps:
        known = step.operator.needs()
        gpus, memory = known.get("num_gpus", 0.0), int(known.get("memory_bytes", 0))
        needs = needs.with_(Needs(num_gpus=gpus, memory_bytes=memory, optional_gpus=True))
    return needs


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        total = add_counts(total, part)
    return total
