"""Train a quality classifier from any documents: an asset with a record that lists its data.

The method is DCLM's (Li et al. 2024, section 4.4): fastText on words and pairs of words, good
documents against others. Samples and the held-out part are drawn by hash, so the same sources give
the same model, on one process, several, or a cluster. What the classifier does to documents that it
has not seen is in the record: AUC, calibration, histograms per source, and what cuts keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import Field

from pipelines.errors import DataError, UsageError
from pipelines.execution.executors import MapTasks
from pipelines.execution.progress import step as progress_step
from pipelines.records import AssetRecord, AssetRef, AssetWork, Frozen, now
from pipelines.schema import STRING
from pipelines.scoring.asset_files import existing_asset, record_asset, remove_samples
from pipelines.scoring.evaluation import Evaluation, area_under_roc, evaluate
from pipelines.scoring.samples import Documents, Sample, held_out, sample
from pipelines.text.quality import (
    DCLM_RECIPE,
    OTHER,
    ClassifierRecipe,
    Classifiers,
    train_classifier,
)

MIN_TESTED = 10  # held-out documents of each label below which figures say nothing


class TrainingOptions(Frozen):
    """How documents become a classifier."""

    recipe: ClassifierRecipe = DCLM_RECIPE
    balance: Literal["equal", "as_is"] = Field(
        "equal", description="equal: as many of both labels, the first by hash; as_is: all"
    )
    held_out: float = Field(0.1, ge=0, lt=1, description="part of the documents kept for testing")
    seed: int | None = Field(0, ge=0, description="of the samples; null: the texts' own hashes")
    threads: int = Field(1, ge=1, description="more than one cannot be repeated byte for byte")


@dataclass(frozen=True)
class LabelledDocuments:
    """Documents that people labelled good (true) or bad."""

    name: str
    texts: list[str]
    positive: npt.NDArray[np.bool_]


class LabelledAuc(Frozen):
    """How well a score orders documents that people labelled good or bad."""

    name: str
    num_documents: int
    classifier: float
    length: float


def train(
    positives: Documents,
    negatives: Documents,
    *,
    out: Path,
    options: TrainingOptions,
    map_tasks: MapTasks,
    work: str | None = None,
    licence: str = "derived from the documents it was trained on",
) -> AssetRecord:
    """Train, test on held-out documents, and write the model with its record next to it.

    Returns at once when the same work is there. `work` is where samples are drawn (beside the model
    when None); workers on other machines must see it. Texts of both labels count as positives only.
    UsageError when `out` is no local file; DataError when too few documents are left.
    """
    started = now()
    if ":/" in str(out):  # a Path folds the slashes of s3://
        raise UsageError(f"--out {out}: a classifier is a local file; give a path, as mine.bin")
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give a file, as {out}/mine.bin")
    asset_work = _asset_work(positives, negatives, out.name, options, licence)
    parents = {
        f"{label}/{source.name}": source.pool.record.id
        for label, documents in (("positives", positives), ("negatives", negatives))
        for source in documents.sources
    }
    existing = existing_asset(out, key=AssetRecord.key_of(work=asset_work, parents=parents))
    if existing is not None:
        return existing
    folder = work or f"{out}.work"
    good = sample(positives, label="positives", seed=options.seed, work=folder, map_tasks=map_tasks)
    other = sample(
        negatives, label="negatives", seed=options.seed, work=folder, map_tasks=map_tasks
    )
    in_both = np.isin(other.hashes, good.hashes)
    other = other.only(~in_both)
    good, good_tested = _parted(good, options)
    other, other_tested = _parted(other, options)
    _check_some(good, other)
    if options.balance == "equal":
        least = min(len(good.texts), len(other.texts))
        good, other = _first(good, least), _first(other, least)
    with progress_step(f"train {out.name}", total=1, unit="model") as bar:
        train_classifier(
            good.texts, other.texts, recipe=options.recipe, out=out, threads=options.threads
        )
        bar.advance()
    record = record_asset(
        out,
        work=asset_work,
        parents=parents,
        counts={
            "positives": len(good.texts),
            "negatives": len(other.texts),
            "in_both": int(in_both.sum()),
        },
        evaluation=_tested(out, positives, negatives, good_tested, other_tested),
        started=started,
        locations={
            f"{label}/{source.name}": source.pool.uri
            for label, documents in (("positives", positives), ("negatives", negatives))
            for source in documents.sources
        },
    )
    remove_samples(folder)
    return record


def evaluation_of(record: AssetRecord) -> Evaluation | None:
    """What the record says of held-out documents; None where none were kept."""
    return None if record.results is None else Evaluation.model_validate(record.results)


def read_labels(path: Path) -> LabelledDocuments:
    """Rows {"text", "label": 0 or 1} of JSON lines. DataError names the line that is not one."""
    texts, labels = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise DataError(f'{path}, line {number}: expected {{"text": "...", "label": 0 or 1}}')
        if row.get("label") not in (0, 1):
            raise DataError(
                f"{path}, line {number}: label is {row.get('label')!r}, "
                "expected 0 (bad) or 1 (good)"
            )
        texts.append(row["text"])
        labels.append(row["label"])
    positive = np.array(labels) == 1
    if not positive.any() or positive.all():
        raise DataError(
            f"{path} has {int(positive.sum()):,} documents labelled good and "
            f"{int((~positive).sum()):,} labelled bad: an area under the curve needs both"
        )
    return LabelledDocuments(path.stem, texts, positive)


def labelled_auc(labels: LabelledDocuments, *, model: Path) -> LabelledAuc:
    """The classifier's area under the ROC curve on labelled documents."""
    scores = np.nan_to_num(scores_of(model, labels.texts))
    return LabelledAuc(
        name=labels.name,
        num_documents=len(labels.texts),
        classifier=area_under_roc(scores, labels.positive),
        length=area_under_roc([len(text) for text in labels.texts], labels.positive),
    )


def scores_of(model: Path, texts: list[str]) -> npt.NDArray[np.float64]:
    """The probability that each text is good; NaN for one without any feature."""
    classifier = Classifiers((model,), negative=OTHER, exact_near=())
    [scores] = classifier.scores(pa.array(texts, STRING), "squeeze")
    return scores.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _asset_work(
    positives: Documents,
    negatives: Documents,
    name: str,
    options: TrainingOptions,
    licence: str,
) -> AssetWork:
    """What is asked for: every source by the id of its record, every option, defaults too."""
    inputs = []
    for label, documents in (("positives", positives), ("negatives", negatives)):
        for source in documents.sources:
            inputs.append(AssetRef(name=f"{label}/{source.name}", sha256=source.pool.record.id))
        steps = documents.qualify.steps
        needed = sorted({asset for step in steps for asset in step.operator.assets()})
        inputs += [documents.qualify.assets.ref(asset) for asset in needed]
    return AssetWork(
        name=name,
        licence=licence,
        inputs=tuple(inputs),
        parameters={
            **options.model_dump(mode="json"),
            "positives": positives.described(),
            "negatives": negatives.described(),
        },
    )


def _parted(sampled: Sample, options: TrainingOptions) -> tuple[Sample, Sample]:
    """The documents to train on, and those kept for testing."""
    tested = held_out(sampled, seed=options.seed, fraction=options.held_out)
    return sampled.only(~tested), sampled.only(tested)


def _check_some(good: Sample, other: Sample) -> None:
    """DataError when one of the labels has no document."""
    for label, left in (("positive", good), ("negative", other)):
        if not left.texts:
            raise DataError(
                f"no {label} document is left to train on; check the sources, and the steps that "
                "documents must pass (pipelines run CONFIG on the source shows what they reject)"
            )


def _first(sampled: Sample, number: int) -> Sample:
    """So many documents with the lowest hashes, in the order they come."""
    if number >= len(sampled.texts):
        return sampled
    mask = np.zeros(len(sampled.texts), dtype=bool)
    mask[np.argsort(sampled.hashes, kind="stable")[:number]] = True
    return sampled.only(mask)


def _tested(
    out: Path, positives: Documents, negatives: Documents, good: Sample, other: Sample
) -> Evaluation | None:
    """Figures of the held-out documents; None when there are too few of a label."""
    if min(len(good.texts), len(other.texts)) < MIN_TESTED:
        return None
    texts = good.texts + other.texts
    positive = np.arange(len(texts)) < len(good.texts)
    sources = {}
    for label, documents, sampled, here in (
        ("positives", positives, good, positive),
        ("negatives", negatives, other, ~positive),
    ):
        for number, source in enumerate(documents.sources):
            mask = np.zeros(len(texts), dtype=bool)
            mask[np.flatnonzero(here)] = sampled.source == number
            sources[f"{label}/{source.name}"] = mask
    scores = np.clip(scores_of(out, texts), 0.0, 1.0)
    return evaluate(scores, positive, [len(text) for text in texts], sources)
