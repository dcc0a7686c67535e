"""Honesty of the data: what a reader of the score should know next to it.

How many tries are behind the entry, what of the suite occurs in the dataset, which licences the
data has, whether the score uses its context. None of it refuses an entry; all of it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from evals.tasks import load_task
from leaderboard.submissions.arithmetic import Recomputed
from leaderboard.submissions.case import Case
from leaderboard.submissions.counts import LOST, is_mixture, lost
from leaderboard.submissions.lineage import unpinned
from leaderboard.submissions.novelty import Notice
from pipelines.errors import PipelineError
from pipelines.records import TaskScore


def tries(case: Case) -> Iterator[Notice]:
    """The number of tries that the team claims for this entry."""
    number = case.record.work.tries
    work = case.record.work
    shown = {
        other.dataset
        for other in case.known.entries(case.book.name)
        if (other.team, other.scale, other.track) == (work.team, work.scale, work.track)
        and other.dataset != case.dataset.id
    }
    if number is not None and number <= len(shown):
        text = (
            f"{number} tries are claimed; {len(shown)} other datasets of this team are here, or "
            "were withdrawn"
        )
        yield Notice(rule="honesty.tries", text=text)
    if number is None:
        text = "the number of tries behind this entry is not given: its interval is that of one try"
        yield Notice(rule="honesty.tries", text=text)
    elif number > 1:
        text = f"the best of {number} tries; the interval accounts for the choice"
        yield Notice(rule="honesty.tries", text=text, informs=True)


def data(case: Case) -> Iterator[Notice]:
    """Tasks whose data is not pinned, and sources of the pool that are not the pinned ones."""
    tasks = unpinned(case)
    if tasks:
        text = f"data not pinned: {', '.join(tasks)}; compared only with rows on the same data"
        yield Notice(rule="honesty.data", text=text)
    changed = [source.name for source in case.pool.work.sources if source.status != "pinned"]
    if changed:
        text = f"sources of the pool that are not the pinned ones: {', '.join(changed)}"
        yield Notice(rule="honesty.pool", text=text)


def missing_rows(case: Case) -> Iterator[Notice]:
    """Rows of the pool that no step of the pipeline took out, and that are not in the dataset."""
    if case.dataset.work.external or is_mixture(case.dataset):
        return
    part, parts = lost(case.pool, case.dataset)
    if part > 0:
        shown = ", ".join(f"{number:,} {name}" for name, number in parts.items() if number)
        text = (
            f"rows of the pool that no step took out and that are not there: {shown} ({part:.1%})"
        )
        yield Notice(rule="honesty.pool", text=text)


def unpacked(case: Case) -> Iterator[Notice]:
    """Pairs of the dataset that were not packed, as where their addresses are dead."""
    rows, there = case.dataset.counts.get("rows_out", 0), case.packed.counts.get("samples")
    if there is not None and there < (1 - LOST) * rows:
        text = f"{there:,} of the {rows:,} pairs of the dataset were packed ({there / rows:.1%})"
        yield Notice(rule="honesty.pool", text=text)


def repeatable(case: Case) -> Iterator[Notice]:
    """Steps that cannot be repeated: their operators do not take the parameters."""
    try:
        from pipelines.registry import build, registry
    except ModuleNotFoundError:  # a board without the extras of pipelines
        return
    known = registry()
    for number, step in enumerate(case.dataset.work.pipeline.get("steps") or [], 1):
        if step["operator"] in known:
            try:
                build(known[step["operator"]], step.get("parameters") or {}, where=f"step {number}")
            except PipelineError as error:
                yield Notice(rule="honesty.pipeline", text=f"cannot be repeated: {error}"[:1000])


def licences(case: Case) -> Iterator[Notice]:
    """The licences of the pool and of trained assets."""
    known = {source.licence for source in case.pool.work.sources if source.licence}
    known |= {asset.work.licence for asset in case.kinds.get("asset", []) if asset.work.licence}
    if known:
        shown = sorted(known)
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        text = f"derives from data under {', '.join(shown[:8])}{more}"
        yield Notice(rule="honesty.licences", text=text, informs=True)


def assets(case: Case) -> Iterator[Notice]:
    """Files that steps used, as trained classifiers, of which no record says how they were made."""
    known = {file.sha256 for asset in case.kinds.get("asset", []) for file in asset.outputs}
    names = sorted({a.name for a in case.dataset.work.assets if a.sha256 not in known})
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        text = f"no record says how these files of steps were made: {', '.join(names[:8])}{more}"
        yield Notice(rule="honesty.assets", text=text)


USED = {"context swapped": "context", "measurements swapped": "measurements"}
"""By control: what a score does not use if the control costs it nothing; else it is the image."""


def controls(case: Case) -> Iterator[Notice]:
    """Scores that do not drop without context or image, and those that depend on the order."""
    [scores, *_] = case.by_seed.values()
    controls_ = scores.results.controls
    if not controls_:
        text = "no controls: whether the scores use their contexts was not measured"
        yield Notice(rule="honesty.controls", text=text)
    else:
        missing = sorted(_controllable(case) - {control.task for control in controls_})
        if missing:
            text = f"no controls: {', '.join(missing)}; the other tasks have them"
            yield Notice(rule="honesty.controls", text=text)
    for control in controls_:
        drop = f"{control.drop:.3f} [{control.low:.3f}, {control.high:.3f}]"
        if control.name == "options rotated":
            if control.low > 0:
                text = f"{control.task}: answers depend on the order of the options, drop {drop}"
                yield Notice(rule="honesty.controls", text=text)
        elif control.low <= 0:
            what = USED.get(control.name, "image")
            text = (
                f"{control.task}: this score does not use the {what} ({control.name}: drop {drop})"
            )
            yield Notice(rule="honesty.controls", text=text)


def _controllable(case: Case) -> set[str]:
    """The tasks that `evals run` measures controls of."""
    kinds = ("multiple_choice", "schema", "language_modeling", "generation")
    of_images = ("image_classification", "image_retrieval", "image_restoration")
    return {task.name for task in case.suite.load_tasks() if task.kind in (*kinds, *of_images)}


FEW_KEYS = 0.5
"""Of a dataset's documents: with fewer in its sketch, most of it cannot be compared."""


def documents(case: Case) -> Iterator[Notice]:
    """A dataset of documents without a sketch."""
    bundle = case.bundle
    if case.book.modality == "text" and bundle is not None and bundle.manifest.documents is None:
        text = "no sketch of the dataset's documents: it cannot be compared with other entries"
        yield Notice(rule="honesty.documents", text=text)
    elif case.book.modality == "text" and bundle is not None and bundle.manifest.documents:
        count, rows = bundle.manifest.documents.count, case.dataset.counts["rows_out"]
        if count < FEW_KEYS * rows:
            text = (
                f"the sketch is of {count:,} documents, the dataset has {rows:,}: the others have "
                "fewer than five words, or were left out"
            )
            yield Notice(rule="honesty.documents", text=text)


def evidence(out: Recomputed) -> Iterator[Notice]:
    """Tasks with choices whose logs show no losses: what was chosen cannot be checked by them."""
    if out.unshown:
        tasks = ", ".join(sorted(out.unshown))
        text = f"no losses are shown of what was chosen: {tasks}; `evals run` writes them"
        yield Notice(rule="honesty.evidence", text=text)


def overlap(case: Case, out: Recomputed) -> Iterator[Notice]:
    """Which of the suite's items occur in the dataset, and the scores with and without them."""
    bundle = case.bundle
    report = bundle.manifest.overlap if bundle is not None else None
    [first, *_] = out.tasks.values()
    if report is None:
        if case.book.modality != "image":  # generated images are compared by their task itself
            text = "overlap of the dataset with the suite's items was not measured (--overlap)"
            yield Notice(rule="honesty.overlap", text=text)
        return
    left_out = [task for task in case.suite.tasks if task not in report]
    if left_out:
        text = f"overlap was not measured: {', '.join(left_out)}; the other tasks have it"
        yield Notice(rule="honesty.unmeasured", text=text)
    for task, overlap_ in sorted(report.items()):
        looked_at = max(0, overlap_.num_items - overlap_.num_too_short)
        asked = next((s.num_items for s in first if s.task == task), 0)
        if looked_at < FEW_KEYS * asked:
            text = f"{task}: overlap was measured of {looked_at:,} of its {asked:,} items alone"
            yield Notice(rule="honesty.unmeasured", text=text)
        if not overlap_.found:
            continue
        full = _mean(out.tasks.values(), task)
        clean = _mean(out.clean.values(), task)
        without = "none is left without them" if clean is None else f"without them {clean:.4f}"
        share = f"{len(overlap_.found)} of {overlap_.num_items} items occur in the dataset"
        score = "" if full is None else f"; score {full:.4f}, {without}"
        yield Notice(rule="honesty.overlap", text=f"{task}: {share}{score}")
        if full is not None and clean is not None and _worse_inside(out, task, full, clean):
            text = f"{task}: the items reported as overlap were answered worse than the others"
            yield Notice(rule="honesty.overlap", text=text)


def _worse_inside(out: Recomputed, task: str, full: float, clean: float) -> bool:
    """Whether leaving items out makes a score better by more than three of its standard errors.

    A dataset with an item helps with it, so calling wrong answers overlap is visible here.
    """
    [first, *_] = out.tasks.values()
    score = next(score for score in first if score.task == task)
    gain = clean - full if score.higher_is_better else full - clean
    return gain > 3 * (score.stderr or 0.0)


def _mean(seeds: Iterable[Sequence[TaskScore]], task: str) -> float | None:
    """The mean over the seeds of a task's score; None where a seed has none."""
    known = [
        [task_score.value for task_score in scores if task_score.task == task] for scores in seeds
    ]
    values = [value for values in known for value in values]
    return sum(values) / len(values) if values and len(values) == len(known) else None


def settings(case: Case) -> Iterator[Notice]:
    """What the track leaves to its participants, and code of theirs that somebody should read."""
    [scores, *_] = case.by_seed.values()
    model = scores.work.parameters.get("model")
    of_model = model if isinstance(model, dict) else {}
    for name in case.track.settings:
        value = of_model.get(name)
        shown = dict(value) if isinstance(value, dict) else {"value": value}
        module = shown.pop("module", None)
        text = ", ".join(f"{key} {item}" for key, item in sorted(shown.items()) if item)
        yield Notice(rule="honesty.settings", text=f"{name}: {text}"[:1000], informs=True)
        if isinstance(module, dict):
            text = f"{name}: runs code of the participant, {str(module.get('name'))[:200]}"
            yield Notice(rule="honesty.settings", text=text)


LEAKED = 2.0
"""Of the distance to training images over that to held-out ones: new images have about 1."""


def generated(case: Case) -> Iterator[Notice]:
    """Images that are nearer to held-out ones than to those that were trained on."""
    for scores in case.by_seed.values():
        for score in scores.results.tasks:
            if load_task(score.task).kind == "image_memorisation" and score.value > LEAKED:
                text = (
                    f"{score.task}: generated images are {score.value:.3g} times as near to "
                    "held-out images as to training images; held-out images in the data would be"
                )
                yield Notice(rule="honesty.generated", text=text)
                return


NO_ORDER = 0.97
"""Of natural text, `Profile.order` is well below (docs/deciding.md has what was measured)."""


def profile(case: Case) -> Iterator[Notice]:
    """Documents whose words are in no order: a model learns word counts from them."""
    simple = case.bundle.manifest.profile if case.bundle is not None else None
    if simple is not None and simple.order > NO_ORDER:
        text = (
            f"the words of the documents are in no order: shuffled, they compress to "
            f"{1 / simple.order:.2f} of what they do now"
        )
        yield Notice(rule="honesty.profile", text=text)
