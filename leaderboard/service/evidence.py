"""What the pages show of a submission, written once by its check in a format of its own.

The web process never opens a bundle: it reads these files, whose size and types are known because
the check wrote them. They are next to the bundles, in `shown/<submission>-<start of its sha256>/`:

    evidence.json              lineage, funnel, pipeline, commands
    draws.npz                  every task on the resamples of its questions, float32
    answers.npz                contribution of each question to its task, mean over seeds, float32
    <seed>-<task>.questions    single questions in blocks (see `questions`)
    <seed>-samples.png         what a generator drew (see `sample_grids`)
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from evals.tasks import load_task
from leaderboard import rules
from leaderboard.board.describe import funnel, pipeline_yaml, still_there
from leaderboard.board.paired import contributions
from leaderboard.database.states import StoredSubmission
from leaderboard.service.question_texts import identity_in
from leaderboard.service.questions import write_questions
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.counts import is_mixture
from leaderboard.submissions.results import Measured
from leaderboard.submissions.sample_grids import sample_grids
from pipelines.records import Control, Frozen, Submission
from pipelines.storage.base import Store as Files
from pipelines.storage.base import write_bytes

Draws = Mapping[str, npt.NDArray[np.float32]]
T = TypeVar("T")
MAX_TEXT = 64 << 10  # characters of a pipeline or module that a page shows
MAX_ROWS = 500  # records, modules, steps and reasons that a page lists
CHECKED = (
    "needs_review",
    "accepted",
    "refused",
    "withdrawn",
)  # evidence of another bundle is elsewhere
MAX_BYTES = 4 << 20  # of one evidence.json; the check writes far less
FORM = 2  # version of these files; raise it when pages need what earlier checks did not write


class Link(Frozen):
    """One record of the lineage."""

    kind: str
    id: str
    key: str
    seed: int | None
    parents: dict[str, str]
    num_files: int
    first_sha256: str
    finished: str
    revision: str
    dirty: bool
    last_of_branch: bool = Field(description="the next record is not derived from it")


class Step(Frozen):
    """One line of the funnel."""

    step: int
    operator: str
    rows_in: int | None
    rows_out: int | None
    reasons: tuple[tuple[str, int], ...]


class Module(Frozen):
    """A Python file recorded with a pipeline."""

    name: str
    sha256: str
    text: str


class Curve(Frozen):
    """Scores of one seed's checkpoints: step, headline, standard error; the last is the row's."""

    seed: int
    steps: int
    points: tuple[tuple[int, float, float | None], ...]


class Evidence(Frozen):
    """Everything that pages show of a record."""

    submission: str
    chain: tuple[Link, ...]
    rows_in: int
    rows_out: int
    errors: int
    images: str
    funnel: tuple[Step, ...]
    pipeline: str
    modules: tuple[Module, ...]
    commands: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    curves: tuple[Curve, ...] = Field((), description="scores of checkpoints")
    curves_checked: bool = Field(
        False, description="whether they were computed from logs; False: as the team reports them"
    )
    controls: tuple[Control, ...] = Field(
        (), description="controls of the evaluation, of the first seed"
    )
    data: dict[str, str] = Field({}, description="what identifies the data of each task")
    dataset_at: str = Field("", description="where the dataset is, if everybody may read it")
    form: int = Field(1, description="version of this file; see FORM")


def evidence_of(bundle: Bundle) -> Evidence:
    """What pages show of a bundle that passed its check."""
    record = bundle.record
    dataset = chain_of(record)["dataset"][0]
    scores = seeds_of(record)
    return Evidence(
        submission=record.id,
        chain=tuple(_links(record)),
        rows_in=dataset.counts.get("rows_in", 0),
        rows_out=dataset.counts.get("rows_out", 0),
        errors=dataset.counts.get("errors", 0),
        images=still_there(record),
        funnel=tuple(
            Step(
                step=step["step"],
                operator=step["operator"][:200],
                rows_in=step["rows_in"],
                rows_out=step["rows_out"],
                reasons=tuple(step["reasons"][:MAX_ROWS]),
            )
            for step in funnel(dataset)[:MAX_ROWS]
        ),
        pipeline=_cut(pipeline_yaml(dataset.work.pipeline)),
        modules=tuple(
            Module(name=module.name[:200], sha256=module.sha256, text=_cut(module.text))
            for module in dataset.work.modules[:MAX_ROWS]
        ),
        commands=_cut(reproduce(record)),
        seeds=tuple(scores),
        tasks=tuple(task.name for task in next(iter(scores.values())).work.tasks),
        curves=tuple(_curves(bundle)),
        curves_checked=bool(bundle.checkpoints),
        controls=next(iter(scores.values())).results.controls[:MAX_ROWS],
        data={task.name: identity_in(task) for task in next(iter(scores.values())).work.tasks},
        dataset_at=bundle.manifest.dataset.location[:500],
        form=FORM,
    )


def _curves(bundle: Bundle) -> Iterator[Curve]:
    """The manifest's curves; each ends at its model's last step, with the final score."""
    models = {str(m.work.seed): m for m in chain_of(bundle.record)["model"]}
    for seed, points in sorted(bundle.manifest.curves.items(), key=lambda item: int(item[0])):
        steps = models[seed].counts.get("steps", 0)
        if points and steps >= points[-1].step:
            before = points[:-1] if points[-1].step == steps else points
            figures = tuple((p.step, p.value, p.stderr) for p in before[:MAX_ROWS])
            yield Curve(seed=int(seed), steps=steps, points=figures)


def _links(record: Submission) -> list[Link]:
    chain = record.chain[:MAX_ROWS]
    return [
        Link(
            kind=link.kind,
            id=link.id,
            key=link.key,
            seed=link.work.seed if link.kind == "model" else None,
            parents=dict(link.parents),
            num_files=len(link.outputs),
            first_sha256=link.outputs[0].sha256 if link.outputs else "",
            finished=link.made_by.finished,
            revision=(link.made_by.revision or "")[:64],
            dirty=bool(link.made_by.dirty),
            last_of_branch=link.kind == "scores" and link is not chain[-1],
        )
        for link in chain
    ]


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "\n... (the rest is in the bundle)"


def reproduce(record: Submission) -> str:
    """The shell commands that reproduce the submission and check it."""
    work = record.work
    dataset = chain_of(record)["dataset"][0]
    revision = dataset.made_by.revision
    lines = []
    if revision:
        lines.append(
            f"git checkout {revision}" + ("   # with local changes" * bool(dataset.made_by.dirty))
        )
    kept = [letter if letter.isalnum() or letter in "._" else "-" for letter in work.method]
    name = "".join(kept) or "pipeline"
    given = "--uids LIST.npy" if dataset.work.output.get("format") == "uids" else "--input DATASET"
    if dataset.work.external or is_mixture(dataset):
        made = f"register {given} --out dataset --name '{name}'"
        if is_mixture(dataset):
            made = f"mix {name}.yaml --out dataset   # of the datasets that the mixture names"
        lines += [
            f"{work.benchmark} {made}",
            f"{work.benchmark} pack --scale {work.scale} --dataset dataset --out packed",
        ]
        for seed in seeds_of(record):
            model = f"model-{seed}"
            lines += [
                f"{work.benchmark} train --scale {work.scale} --packed packed --seed {seed} "
                f"--out {model}",
                f"{work.benchmark} evaluate {model} --scale {work.scale} --out scores-{seed}",
            ]
    else:
        race = rules.load_benchmark(work.benchmark).track(work.track).speedrun
        command, end = ("speedrun", "--submit") if race else ("run", f"--track {work.track}")
        lines.append(
            f"{work.benchmark} {command} --scale {work.scale} --pipeline {name}.yaml "
            f"--repeat {len(record.parents)} {end} --workspace runs"
        )
    lines.append(f"leaderboard check {record.id}.zip   # the bundle, downloaded from this page")
    return "\n".join(lines)


# ---- files


def folder_of(submission: StoredSubmission) -> str:
    """The folder of a submission's evidence; each bundle sent under an id has its own."""
    return f"shown/{submission.id}-{submission.bundle_sha256[:16]}/"


def write_evidence(
    files: Files, submission: StoredSubmission, bundle: Bundle, measured: Measured
) -> None:
    """Write what the pages read of a submission whose check found no fault."""
    folder = folder_of(submission)
    for seed, scores in seeds_of(bundle.record).items():
        for task in scores.work.tasks:
            write_questions(files, f"{folder}{seed}-{task.name}.questions", bundle, seed, task.name)
    packed = io.BytesIO()
    drawn: dict[str, Any] = {
        name: draws.astype("<f4") for name, draws in measured.task_draws.items()
    }
    np.savez(packed, **drawn)
    write_bytes(files, f"{folder}draws.npz", packed.getvalue())
    write_bytes(files, f"{folder}answers.npz", _answers(bundle))
    for seed, png in sample_grids(bundle):
        write_bytes(files, f"{folder}{seed}-samples.png", png)
    content = evidence_of(bundle).model_dump_json().encode()
    write_bytes(
        files, f"{folder}evidence.json", content
    )  # last: its presence means the others are complete


def _answers(bundle: Bundle) -> bytes:
    """Each question's contribution, higher is better, for tasks whose score is a sum of them."""
    packed = io.BytesIO()
    values: dict[str, Any] = {}
    for task in next(iter(seeds_of(bundle.record).values())).work.tasks:
        parts = contributions(load_task(task.name), bundle)
        if parts is not None and len(parts) > 1:
            numbers = np.array(sorted(parts), np.int64)
            # Multiplied by their number: the mean of the differences is the difference in score.
            own = [parts[number] * len(parts) for number in numbers.tolist()]
            values[task.name] = np.array(own, "<f4")
            if int(numbers[-1]) != len(numbers) - 1:
                values[f"{task.name}/numbers"] = numbers
    np.savez_compressed(packed, **values)
    return packed.getvalue()


def read_evidence(files: Files, submission: StoredSubmission) -> Evidence | None:
    """The evidence of a checked submission; None when no check has written it."""
    if not submission.bundle:
        return None
    name = f"{folder_of(submission)}evidence.json"
    try:
        return _EVIDENCE.get((files.uri, name), lambda: _read(files, name))
    except (FileNotFoundError, ValidationError):
        return None


def _read(files: Files, name: str) -> Evidence:
    with files.open(name) as file:
        return Evidence.model_validate_json(file.read(MAX_BYTES))


def read_draws(files: Files, submission: StoredSubmission) -> Draws:
    """Every task of a submission on the resamples of its questions; empty without questions."""
    return _arrays(files, submission, "draws.npz")


def read_answers(files: Files, submission: StoredSubmission) -> Draws:
    """Each question's contribution to the score of its task; empty without questions.

    `TASK/numbers` has the question numbers where they are not 0, 1, 2, ...
    """
    return _arrays(files, submission, "answers.npz")


def _arrays(files: Files, submission: StoredSubmission, name: str) -> Draws:
    if not submission.bundle:
        return {}
    path = f"{folder_of(submission)}{name}"
    try:
        return _DRAWS.get((files.uri, path), lambda: _read_arrays(files, path))
    except FileNotFoundError:
        return {}


def _read_arrays(files: Files, name: str) -> Draws:
    with np.load(io.BytesIO(files.read_bytes(name)), allow_pickle=False) as packed:
        return {task: packed[task] for task in packed.files}


def read_samples(files: Files, submission: StoredSubmission, seed: int) -> bytes | None:
    """The grid of one seed as PNG; None where there is none."""
    if not submission.bundle:
        return None
    try:
        return files.read_bytes(f"{folder_of(submission)}{seed}-samples.png")
    except FileNotFoundError:
        return None


class _Recent(Generic[T]):
    """A cache of the last values read; a failed read is not cached."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, str], T] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[str, str], make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = make()
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return value


# Bounded by number: evidence is at most 4 MB, the draws of CORE (22 tasks x 1,000) are 88 KB.
_EVIDENCE: _Recent[Evidence] = _Recent(256)
_DRAWS: _Recent[Draws] = _Recent(64)
