"""Make a submission: gather the chain behind folders of scores, check it, write it down.

A submission is a folder (and, packed, a bundle; see `bundle` for its files). It is checked by
`validate` before it is written, by the same code that the service runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from leaderboard.rules import Benchmark
from leaderboard.submissions import uids as uid_lists
from leaderboard.submissions.bundle import (
    MANIFEST,
    SCORES,
    UIDS,
    Bundle,
    OverlapOf,
    Place,
    checkpoint_folder,
    manifest_of,
    open_bundle,
    opened,
    write_zip,
)
from leaderboard.submissions.bundle import RECORD as FILE
from leaderboard.submissions.case import suite_of_checkpoints
from leaderboard.submissions.chain import chain_of, seeds_of
from leaderboard.submissions.curves import Measured, curves_of, read_checkpoints
from leaderboard.submissions.documents import describe as describe_documents
from leaderboard.submissions.faults import BundleError
from leaderboard.submissions.profile import suite_texts
from leaderboard.submissions.sharing import shareable, without_machine
from leaderboard.submissions.validate import Checked, check, check_bundle
from pipelines.errors import RuleError
from pipelines.execution.executors import MapTasks, map_here
from pipelines.records import (
    DatasetRecord,
    ModelRecord,
    PackedRecord,
    Record,
    ScoresRecord,
    Submission,
    SubmissionWork,
    made_by,
    now,
    parse_record,
)
from pipelines.storage.base import Store, write_bytes
from pipelines.storage.chain import read_chain
from pipelines.storage.local import LocalStore
from pipelines.storage.open import open_store


@dataclass(frozen=True)
class Entry:
    """A submission and the folder it is in."""

    record: Submission
    folder: Path

    @property
    def bundle(self) -> Bundle:
        """Its files, to be checked or read."""
        return open_bundle(self.folder)


@dataclass(frozen=True)
class Overlapping:
    """What a dataset is looked through for: a suite's file, and the folder of its data."""

    suite: str
    data: str

    def of(self, dataset: str, *, map_tasks: MapTasks) -> dict[str, OverlapOf]:
        """Which items of each task occur in a dataset: documents, or the images of a packed one."""
        from evals.overlap import overlap_with  # compiled loops, for this alone

        overlaps = overlap_with(dataset, self.suite, self.data, map_tasks=map_tasks).report()
        return {
            overlap.task: OverlapOf(
                num_items=overlap.num_items,
                num_too_short=overlap.num_too_short,
                found=overlap.found,
            )
            for overlap in overlaps
        }


def submit(
    benchmark: Benchmark,
    *,
    scale: str,
    track: str,
    method: str,
    scores: Sequence[str],
    out: Path,
    team: str = "",
    url: str = "",
    dataset: Place = Place(),
    checkpoints: Mapping[int, Place] | None = None,
    uids: str | None = None,
    tries: int | None = None,
    overlap: Overlapping | None = None,
    curves: Sequence[str] = (),
    map_tasks: MapTasks = map_here,
) -> Entry:
    """Gather the chain behind folders of scores, check it, and write the submission below `out`.

    `uids` is the address of the dataset's list of uids, where it is one. With `overlap` the
    dataset's documents, or its packed images and captions, are looked through for the suite's
    items; they are read by `map_tasks`. `curves` are folders of scores of checkpoints on the way;
    on a speedrun's track their logs are sent, too.
    BundleError lists every broken rule; then nothing is left in `out`. Submitting the same again
    gives the same submission.
    """
    chain: dict[str, Record] = {}
    parents = {}
    stores: dict[int, tuple[Store, ScoresRecord]] = {}
    for folder in scores:
        store = open_store(folder)
        records = read_chain(store)
        last = records[-1]
        if not isinstance(last, ScoresRecord):
            raise RuleError(f"{folder} holds a {last.kind} record; expected scores")
        chain |= {record.id: record for record in records}
        model = next(record for record in records if isinstance(record, ModelRecord))
        parents[f"scores/{model.work.seed}"] = last.id
        stores[model.work.seed] = (store, last)
    work = SubmissionWork(
        benchmark=benchmark.name,
        benchmark_version=benchmark.version,
        scale=scale,
        track=track,
        method=method,
        team=team,
        url=url,
        tries=tries,
    )
    record = Submission.seal(work=work, parents=parents, made_by=made_by(now()))
    record = record.model_copy(update={"chain": tuple(chain.values())})
    faults = check(record, benchmark)
    if faults:
        raise BundleError(faults, what=method)
    record = shareable(record)
    suite = suite_of_checkpoints(benchmark, scale, track)
    measured = read_checkpoints(curves, chain.values(), suite=suite.name)
    files = {FILE: record.to_json()} | _logs(stores)
    if benchmark.track(track).speedrun:
        files |= _checkpoint_files(measured)
    uid_list = None
    if uids is None and benchmark.dataset_format == "uids":
        uids = list_of(chain.values())
    if uids is not None:
        ids = uid_lists.open_uids(uids)
        uid_list = uid_lists.describe(ids)
        sample = pa.BufferOutputStream()
        pq.write_table(uid_lists.choose(ids, uid_list.sha256), sample, compression="zstd")
        files[UIDS] = sample.getvalue().to_pybytes()
    texts = _documents_of(chain.values()) if benchmark.modality == "text" else ""
    content = texts or _images_of(chain.values())
    if overlap is not None and not content:
        raise RuleError(
            "the dataset's documents, or its packed images, are not where they were written, so "
            "they cannot be looked through for the suite's items; put them back, or submit "
            "without --overlap"
        )
    documents = profile = None
    if texts:
        items = None if overlap is None else suite_texts(overlap.suite, overlap.data)
        documents, profile = describe_documents(texts, items=items, map_tasks=map_tasks)
    manifest = manifest_of(
        record,
        files.items(),
        dataset=dataset,
        checkpoints={
            str(seed): _with_hash(checkpoint, seed, chain.values())
            for seed, checkpoint in (checkpoints or {}).items()
        },
        uids=uid_list,
        documents=documents,
        profile=profile,
        overlap=overlap.of(content, map_tasks=map_tasks) if overlap is not None else None,
        curves=curves_of(measured, headline=suite.headline),
    )
    files[MANIFEST] = orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    return _written(record, files, out, method)


def _documents_of(chain: Iterable[Record]) -> str:
    """Where the dataset's documents were written; empty when they are not there any more."""
    dataset = next(link for link in chain if isinstance(link, DatasetRecord))
    location = dataset.made_by.locations.get("out", "")
    store = open_store(location) if location else None
    whole = store is not None and all(store.exists(file.name) for file in dataset.outputs)
    return location if whole else ""


def _images_of(chain: Iterable[Record]) -> str:
    """Where the packed images are that the model was trained on; empty when they are not there."""
    records = list(chain)
    packed = next(link for link in records if isinstance(link, PackedRecord))
    models = [link for link in records if isinstance(link, ModelRecord)]
    location = next(filter(None, (m.made_by.locations.get("packed", "") for m in models)), "")
    if packed.work.layout != "webdataset" or not location:
        return ""
    store = open_store(location)
    return location if all(store.exists(file.name) for file in packed.outputs) else ""


def list_of(chain: Iterable[Record]) -> str:
    """Where the dataset's list of uids was written. RuleError when it is not there any more."""
    dataset = next(link for link in chain if isinstance(link, DatasetRecord))
    names = [file.name for file in dataset.outputs if file.name.endswith(".npy")]
    location = dataset.made_by.locations.get("out", "")
    if len(names) != 1 or not open_store(location or ".").exists(names[0]):
        raise RuleError(
            f"the list of uids of dataset {dataset.id} is not in {location or 'a known place'}; "
            "name it with --uids"
        )
    return f"{location.rstrip('/')}/{names[0]}"


def _with_hash(checkpoint: Place, seed: int, chain: Iterable[Record]) -> Place:
    """The place of a checkpoint with the hash and size that the model's record says it has."""
    model = next(
        (link for link in chain if isinstance(link, ModelRecord) and link.work.seed == seed), None
    )
    if model is None:
        raise RuleError(f"there is no model of seed {seed}; its checkpoint cannot be named")
    largest = max(model.outputs, key=lambda file: file.num_bytes)
    return checkpoint.model_copy(update={"sha256": largest.sha256, "num_bytes": largest.num_bytes})


def places(values: Sequence[str]) -> dict[int, Place]:
    """Checkpoints by seed, from texts like `124=https://example.org/model.safetensors`."""
    by_seed = {}
    for value in values:
        seed, equals, location = value.partition("=")
        if not equals or not seed.isdigit():
            raise RuleError(f"{value!r} is no place of a checkpoint; write SEED=ADDRESS")
        by_seed[int(seed)] = Place(location=location)
    return by_seed


def _logs(stores: Mapping[int, tuple[Store, ScoresRecord]]) -> dict[str, bytes]:
    """The logs as they were written, under the names they have in a bundle."""
    files: dict[str, bytes] = {}
    for seed, (store, scores) in stores.items():
        files |= _logs_of(store, scores, f"questions/{seed}")
    return files


def _checkpoint_files(measured: Iterable[Measured]) -> dict[str, bytes]:
    """The scores and logs of checkpoints, under the names they have in a bundle."""
    files: dict[str, bytes] = {}
    for point in measured:
        folder = checkpoint_folder(point.seed, point.checkpoint)
        files[f"{folder}/{SCORES}"] = without_machine(point.scores).to_json()
        files |= _logs_of(point.store, point.scores, folder)
    return files


def _logs_of(store: Store, scores: ScoresRecord, folder: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for task in scores.work.tasks:
        prefix = f"logs/{task.name}/"
        names = sorted(file.name for file in scores.outputs if file.name.startswith(prefix))
        for number, name in enumerate(names):
            files[f"{folder}/{task.name}/{number:06d}.parquet"] = store.read_bytes(name)
    return files


def _written(record: Submission, files: Mapping[str, bytes], out: Path, method: str) -> Entry:
    """Check what will be written, then write it: submission.json last, so that it says `whole`."""
    sizes = {name: len(data) for name, data in files.items()}
    checked = check_bundle(opened(str(out / record.id), sizes, files.__getitem__))
    if checked.faults:
        raise BundleError(checked.faults, what=method)
    store = LocalStore(out / record.id)
    for name in sorted(files, key=lambda name: name == FILE):
        write_bytes(store, name, files[name])
    store.discard_unfinished()  # of a command that was killed while it wrote them
    return Entry(record, out / record.id)


def pack(entry: Entry, path: Path | None = None) -> Path:
    """The submission as one zip, by default next to its folder."""
    return write_zip(entry.folder, path or entry.folder.with_suffix(".zip"))


def read_entry(folder: Path) -> Entry:
    """A submission's folder. RecordError when its file is missing, edited or of another kind."""
    path = folder / FILE
    record = parse_record(LocalStore(folder).read_bytes(FILE), source=str(path))
    if not isinstance(record, Submission):
        raise RuleError(f"{path} holds a {record.kind} record; expected a submission")
    return Entry(record, folder)


def read_entries(folder: Path) -> list[Entry]:
    """Every submission below a folder, by id."""
    return [read_entry(path.parent) for path in sorted(folder.glob(f"*/{FILE}"))]


__all__ = [
    "FILE",
    "Checked",
    "Entry",
    "chain_of",
    "check",
    "check_bundle",
    "pack",
    "read_entries",
    "read_entry",
    "seeds_of",
    "submit",
]
