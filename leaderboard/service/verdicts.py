"""Repeat the filter of an entry on a sample of its pool, and look the sample up in its dataset.

The sample depends on a salt that the viewer draws, so nobody can prepare a dataset for it. A row
that a step rejects must not be in the dataset, a row of the dataset must have the text that the
steps produce, and where no step needs the whole pool, every other row must be in the dataset. Where
one step selects by a score, some threshold must separate the kept rows from the rejected ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from leaderboard.benchmark import load_stages
from leaderboard.submissions import uids as uid_lists
from leaderboard.submissions.case import Case
from leaderboard.submissions.counts import is_mixture
from leaderboard.submissions.faults import Fault, Words, fault
from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.engine.repeat import Repeatable, Repeated, repeat, repeatable
from pipelines.errors import RuleError
from pipelines.formats.pool import InputShard, Pool
from pipelines.formats.readers import read_shard
from pipelines.pipeline import Pipeline
from pipelines.records import DatasetRecord, File, Frozen, sha256_file
from pipelines.schema import PARENT, ROW, TEXT, shard_of
from pipelines.storage.base import Store
from pipelines.storage.open import open_store

ALTERED = 0.01  # the altered fraction for which detection probabilities are stated
FEWEST = 520  # rows: 459 detect 1% altered with 99% probability; sampling may give up to 60 fewer
SHARDS = 64  # read at most: a viewer would not wait for more

Ints = npt.NDArray[np.int64]


class Verdicts(Frozen):
    """What was repeated and what differed."""

    num_rows: int  # of the pool
    num_kept: int  # of them in the dataset
    num_shards: int
    whole_pool: bool  # whether every shard was sampled
    altered: tuple[str, ...]  # `row N: what`, the first of them
    num_altered: int
    line: str


def seen_with(number: int, altered: float = ALTERED) -> float:
    """The probability that a sample of `number` rows contains one of a fraction `altered`."""
    return 1 - (1 - altered) ** number


@dataclass
class _Comparison:
    rows: int = 0
    kept: int = 0
    altered: list[str] = field(default_factory=list)


def repeat_verdicts(
    case: Case,
    *,
    pool: str,
    dataset: str,
    fraction: float,
    salt: str,
    assets: Sequence[str] = (),
    run_code: bool = False,
    max_shards: int = SHARDS,
) -> tuple[Verdicts, list[Fault]]:
    """Repeat the filter on a fraction of the pool's rows, at least on `FEWEST` or all.

    `pool` and `dataset` are folders or prefixes (for a dataset that is a list of uids: the list).
    RuleError for a pool of another record, for files that differ from the recorded ones, and for
    a pipeline with Python files of its author unless `run_code`.
    """
    record = case.dataset
    if record.work.external:
        raise RuleError("this dataset was curated elsewhere: there is no filter to repeat")
    if is_mixture(record):
        raise RuleError("this dataset is a mixture of others: repeat the filters of those")
    if record.work.modules and not run_code:
        names = ", ".join(module.name for module in record.work.modules)
        raise RuleError(
            f"the pipeline runs Python of its author ({names}, shown on the submission's page); "
            "read it, then say --run-code"
        )
    opened = load_stages(case.book.name).open_tables(pool)
    if opened.record.id != case.pool.id:
        raise RuleError(f"{pool} is pool {opened.record.id}; the entry's is {case.pool.id}")
    pipeline = _pipeline(case, assets)
    steps = repeatable(pipeline)
    shards = _shards(opened, salt, max_shards)
    read = len(shards) / len(opened.shards)
    share = _share(fraction, record.counts["rows_in"] * read)
    of_kept = max(share, _share(fraction, record.counts["rows_out"] * read))
    members: _Members = (
        _Uids(dataset, case)
        if case.book.dataset_format == "uids"
        else _Documents(open_store(dataset), record)
    )
    comparison = _Comparison()
    cuts: list[tuple[float, bool]] = []
    for number in shards:
        for batch in members.rows_of_pool(opened, number, pipeline):
            hashed = _hashed(np.asarray(batch.rows, np.int64), salt)
            first = hashed < share
            chosen = batch.keep(first | (members.has(batch) & (hashed < of_kept)))
            comparison.rows += int(first.sum())
            if chosen.num_rows:
                _compare(chosen, steps, members, pipeline.assets, record, comparison, cuts)
        comparison.altered += members.foreign(number)
    if steps.to_the_end and steps.num_global == 1 and cuts:
        moved = _wrong_side_of_cut(cuts)
        comparison.altered += ["a score on the other side of the cut"] * moved
    return _verdicts_of(comparison, len(shards), len(opened.shards), steps, salt), _faults(
        comparison, dataset
    )


def _pipeline(case: Case, assets: Sequence[str]) -> Pipeline:
    """The recorded pipeline, with the recorded assets.

    RuleError for steps whose installed version differs, and for assets with other bytes.
    """
    record, pipeline_json = case.dataset, case.dataset.work.pipeline
    known = load_stages(case.book.name).assets(case.scale.name, workspace="runs")
    places = Assets(folders=(*(Path(folder) for folder in assets), *known.folders))
    for ref in record.work.assets:
        if sha256_file(places.path(ref.name)) != ref.sha256:
            raise RuleError(
                f"{places.path(ref.name)} is not the {ref.name} that the pipeline used (sha256 "
                f"{ref.sha256[:16]}); name the folder that has it with --assets"
            )
    pipeline = Pipeline.from_steps(
        [{step["operator"]: step["parameters"]} for step in pipeline_json["steps"]],
        name=str(pipeline_json.get("name") or "pipeline"),
        modules={module.name: module for module in record.work.modules},
        assets=places,
    )
    for step, recorded in zip(pipeline.steps, pipeline_json["steps"], strict=True):
        if step.spec()["version"] != recorded["version"]:
            raise RuleError(
                f"{step.label} has version {recorded['version']} in the entry, "
                f"{step.spec()['version']} is installed; repeat it with the entry's revision"
            )
    return pipeline


def _shards(pool: Pool, salt: str, most: int) -> list[int]:
    """Which shards are read: all, or the first `most` by hash."""

    def key(number: int) -> bytes:
        return hashlib.sha256(f"{salt} shard {number}".encode()).digest()

    return sorted(sorted(range(len(pool.shards)), key=key)[:most])


def _share(fraction: float, rows: float) -> float:
    """The fraction of `rows` that is sampled: `fraction`, or more to reach `FEWEST` rows."""
    return 1.0 if rows <= FEWEST else max(fraction, FEWEST / rows)


def _hashed(rows: Ints, salt: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row: splitmix64's finalizer of the salted row number."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little"))
    value = rows.astype(np.uint64) ^ seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    value = value ^ (value >> np.uint64(31))
    return (value >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _compare(
    batch: Batch,
    steps: Repeatable,
    members: _Members,
    assets: Assets,
    record: DatasetRecord,
    comparison: _Comparison,
    cuts: list[tuple[float, bool]],
) -> None:
    """Add to `comparison` the altered rows of a batch of the pool."""
    result = _through(steps, batch, assets, record)
    there = members.of(batch)
    comparison.kept += len(there)
    for row, reason in result.rejected.items():
        if row in there:
            comparison.altered.append(f"row {row} is in the dataset, but {reason}")
    kept = dict.fromkeys(np.asarray(result.kept.rows).tolist())
    if steps.to_the_end and TEXT in result.kept.table.column_names:
        kept = dict(zip(kept, result.kept.text.to_pylist(), strict=True))
    for row, text in kept.items():
        if row not in there:
            if steps.decides:
                comparison.altered.append(
                    f"row {row} is not in the dataset, but no step rejects it"
                )
        elif steps.to_the_end and there[row] is not None and there[row] != text:
            comparison.altered.append(f"row {row} has another text than the steps leave")
    for rows, scores in result.scores:
        last = [(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        cuts += [(score, row in there) for row, score in last if row in kept and score == score]


def _through(steps: Repeatable, batch: Batch, assets: Assets, record: DatasetRecord) -> Repeated:
    """The steps over a batch; with quarantine, rows at which a step fails are set aside."""
    try:
        return repeat(steps.steps, batch, assets)
    except ValueError:
        if not record.work.quarantine:
            raise
    whole = Repeated(batch.slice(0, 0))
    parts = []
    for row in range(batch.num_rows):
        row_batch = batch.slice(row, 1)
        try:
            result = repeat(steps.steps, row_batch, assets)
        except ValueError as error:
            whole.rejected[int(row_batch.rows[0])] = f"a step fails on it: {error}"
            continue
        whole.rejected |= result.rejected
        whole.scores += result.scores
        parts.append(result.kept.table)
    whole.kept = Batch(pa.concat_tables(parts)) if parts else whole.kept
    return whole


def _wrong_side_of_cut(scores: Sequence[tuple[float, bool]]) -> int:
    """The least number of rows on the wrong side of a threshold, over all thresholds.

    Rows whose score equals the threshold may be on either side.
    """
    ordered = sorted(scores)
    values = np.array([score for score, _ in ordered])
    kept = np.array([there for _, there in ordered])
    kept_below = np.concatenate([[0], np.cumsum(kept)])
    rejected_above = np.concatenate([np.cumsum(~kept[::-1])[::-1], [0]])
    least = len(ordered)
    for value in np.unique(values):
        left, right = np.searchsorted(values, value), np.searchsorted(values, value, "right")
        least = min(least, int(kept_below[left] + rejected_above[right]))
    return least


def _verdicts_of(
    comparison: _Comparison, read: int, of: int, steps: Repeatable, salt: str
) -> Verdicts:
    whole = read == of
    text = (
        f"the filter repeated on {comparison.rows:,} rows of the pool and {comparison.kept:,} of "
        f"the dataset: {len(comparison.altered)} verdicts or texts differ; had 1% of the pool's "
        f"verdicts been altered, it would have been seen with probability "
        f"{seen_with(comparison.rows):.3f}, "
        f"1% of the dataset's rows with {seen_with(comparison.kept):.3f}"
    )
    if not whole:
        text += (
            f"; {read} of {of} shards were read: an alteration of 1% of the shards alone would "
            f"have been seen with probability {seen_with(read):.2f}"
        )
    if not steps.to_the_end:
        number = len(steps.steps)
        text += f"; only the first {number} steps can be repeated for single rows"
    elif steps.num_global > 1:
        text += f"; {steps.num_global} steps that look at the whole pool were not repeated"
    elif steps.num_global == 1:
        text += "; of the step that looks at the whole pool, only its cut was checked"
    return Verdicts(
        num_rows=comparison.rows,
        num_kept=comparison.kept,
        num_shards=read,
        whole_pool=whole,
        altered=tuple(comparison.altered[:20]),
        num_altered=len(comparison.altered),
        line=f"{text} (salt {salt})",
    )


def _faults(comparison: _Comparison, dataset: str) -> list[Fault]:
    if not comparison.altered:
        return []
    what = Words(f"{len(comparison.altered)} altered rows, the first: {comparison.altered[0]}")
    return [fault(dataset, "verdicts", what, Words("what the recorded pipeline decides"))]


# ---- membership in the dataset


class _Members:
    """A dataset that rows of the pool are looked up in."""

    def rows_of_pool(self, pool: Pool, shard: int, pipeline: Pipeline) -> Iterator[Batch]:
        raise NotImplementedError

    def has(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Whether each row of a batch is in the dataset."""
        raise NotImplementedError

    def of(self, batch: Batch) -> dict[int, str | None]:
        """Which rows of a batch are in the dataset, with their texts (None: not known)."""
        raise NotImplementedError

    def foreign(self, shard: int) -> list[str]:
        """Rows of the dataset that claim to be from this shard of the pool and are not."""
        return []


class _Documents(_Members):
    """Tables of documents, a file for each shard of the pool; a file is read once."""

    def __init__(self, store: Store, record: DatasetRecord) -> None:
        self._store = store
        self._files: dict[int, list[File]] = {}
        for file in record.outputs:
            number = file.name.rpartition("/")[2].partition(".")[0]
            if not number.isdigit():
                raise RuleError(f"{file.name} is not a file of a dataset that was curated here")
            self._files.setdefault(int(number), []).append(file)
        self._texts: dict[int, str | None] = {}
        self._rows = np.empty(0, np.int64)
        self._pool_rows = 0

    def rows_of_pool(self, pool: Pool, shard: int, pipeline: Pipeline) -> Iterator[Batch]:
        source, input_ = open_store(pool.uri), pool.shards[shard]
        _same_bytes(source, input_.name, input_.sha256)
        self._texts, self._pool_rows = {}, 0
        for file in self._files.get(shard, []):
            _same_bytes(self._store, file.name, file.sha256)
            with self._store.open(file.name) as handle:
                table = pq.read_table(handle)
            name = PARENT if PARENT in table.column_names else ROW
            split = name == PARENT
            texts = [None] * table.num_rows if split else table[TEXT].to_pylist()
            self._texts |= dict(zip(table[name].to_pylist(), texts, strict=True))
        self._rows = np.array(sorted(self._texts), np.int64)
        for chunk in read_shard(source, input_.name, shard=shard):
            last = [*chunk.table[ROW].to_pylist()[-1:], *(bad.row for bad in chunk.bad)]
            self._pool_rows = max([self._pool_rows, *last])
            yield Batch(chunk.table)

    def has(self, batch: Batch) -> npt.NDArray[np.bool_]:
        return np.isin(np.asarray(batch.rows), self._rows)

    def of(self, batch: Batch) -> dict[int, str | None]:
        rows = np.asarray(batch.rows).tolist()
        return {row: self._texts[row] for row in rows if row in self._texts}

    def foreign(self, shard: int) -> list[str]:
        wrong = [row for row in self._texts if shard_of(row) != shard or row > self._pool_rows]
        return [f"row {row} of the dataset is not a row of the pool" for row in wrong]


class _Uids(_Members):
    """A list of uids, over a pool of image-text tables."""

    def __init__(self, uri: str, case: Case) -> None:
        self._list = uid_lists.open_uids(uri)
        claimed = case.bundle.manifest.uids if case.bundle is not None else None
        if claimed is not None and uid_lists.describe(self._list).sha256 != claimed.sha256:
            raise RuleError(f"{uri} is another list of uids than the one that was submitted")

    def rows_of_pool(self, pool: Pool, shard: int, pipeline: Pipeline) -> Iterator[Batch]:
        from pipelines.images.pairs import UID, read_table, score_files
        from pipelines.schema import row_of

        input_: InputShard = pool.shards[shard]
        written: set[str] = set()
        columns = {UID: None}
        for step in pipeline.steps:
            columns |= dict.fromkeys(c for c in step.operator.reads() if c not in written)
            written |= set(step.operator.writes())
        names = [name for name in columns if name != ROW]
        yield from read_table(
            open_store(pool.uri),
            input_.name,
            names,
            scores=score_files(pipeline.assets, names, input_.sha256),
            first_row=row_of(shard, 0),
        )

    def of(self, batch: Batch) -> dict[int, str | None]:
        return dict.fromkeys(np.asarray(batch.rows)[self.has(batch)].tolist())

    def has(self, batch: Batch) -> npt.NDArray[np.bool_]:
        from pipelines import kernels
        from pipelines.images.pairs import UID

        high, low, _ = kernels.uids.parse(batch.column(UID))
        asked = np.empty(batch.num_rows, self._list.dtype)
        asked["f0"], asked["f1"] = high, low
        if not len(self._list):
            return np.zeros(batch.num_rows, np.bool_)
        places = np.minimum(np.searchsorted(self._list, asked), len(self._list) - 1)
        return np.asarray(self._list[places] == asked)


def _same_bytes(store: Store, name: str, sha256: str) -> None:
    """RuleError when a file's sha256 differs from the recorded one."""
    state = hashlib.sha256()
    with store.open(name) as file:
        while block := file.read(1 << 20):
            state.update(block)
    if state.hexdigest() != sha256:
        raise RuleError(f"{store.uri}/{name} has other bytes than its record says; get it again")
