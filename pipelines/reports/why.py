"""What became of one document of a run: kept, rejected with step and reason, or set aside."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import kernels
from pipelines.engine.evidence import Evidence
from pipelines.engine.run_folder import read_run
from pipelines.images.pairs import UID, rows_with
from pipelines.operators import Dedup, Select
from pipelines.pipeline import Step
from pipelines.records import Frozen, RecordError
from pipelines.reports.global_evidence import cut_evidence, kept_copy, least_similarity
from pipelines.reports.pool_rows import pool_rows, run_pool
from pipelines.reports.try_document import trace
from pipelines.schema import PARENT, ROW, URL, number_of, shard_of
from pipelines.storage.base import Store
from pipelines.storage.chain import read_chain
from pipelines.storage.open import open_store


class Fate(Frozen):
    """Where a row ended. `step` counts from 1; 0 is reading; None for rows that were kept."""

    row: int
    shard: int
    number: int
    url: str | None
    fate: str  # kept, rejected or set aside
    step: int | None = None
    operator: str | None = None
    reason: str | None = None
    evidence: Evidence | None = None
    kept_row: int | None = None  # the copy that stays for it, where a deduplication knows
    kept_url: str | None = None

    def measured(self) -> str:
        """What was measured and the copy that stays, as a person reads it; `-` for nothing."""
        parts = [] if self.evidence is None else [self.evidence.sentence()]
        if self.kept_row is not None:
            url = "" if self.kept_url is None else f" {self.kept_url}"
            parts.append(f"copy of {shard_of(self.kept_row)}:{number_of(self.kept_row)}{url}")
        return ", ".join(part for part in parts if part) or "-"


def fates(store: Store, document: str) -> list[Fate]:
    """All rows with this URL or uid, or the row with this identity (a number, or SHARD:NUMBER).

    A shard is a number, or its name as messages have it.

    Looks into the files of a finished run only: data, rejected, quarantine. Rows that a splitter
    made are found by their parent too.
    """
    row, plan = _row_of(store, document), read_run(store).plan
    if plan is not None and plan.pairs:
        return _fates_of_pairs(store, document, row)
    all_fates = [*_rejected(store, document, row), *_kept(store, document, row)]
    all_fates += _set_aside(store, document, row)
    all_fates = [_with_evidence(store, fate) for fate in all_fates]
    return sorted(all_fates, key=lambda fate: (fate.row, fate.fate))


def _with_evidence(store: Store, fate: Fate) -> Fate:
    """What the filter measured: from the few that the run noted, else from the pool again.

    Unknown where the pool was removed, or an earlier step looked at the whole pool or made the row.
    """
    if fate.fate != "rejected" or fate.evidence is not None or not fate.step:
        return fate
    plan = read_run(store).of_pipeline()
    step = plan.pipeline().steps[fate.step - 1]
    if isinstance(step.operator, Dedup):
        return _with_copy(store, fate, step)
    if isinstance(step.operator, Select):
        evidence = cut_evidence(store, plan, step, fate.row)
        return fate.model_copy(update={"evidence": evidence})
    try:
        plan, rows = pool_rows(store, [fate.row])
    except RecordError:
        return fate
    pipeline = plan.pipeline()
    if fate.row not in rows or pipeline.steps[fate.step - 1].operator.kind != "filter":
        return fate
    traced = trace(pipeline.steps[: fate.step], rows[fate.row], pipeline.assets)
    if (traced[-1].step, traced[-1].reason) != (fate.step, fate.reason):
        return fate
    return fate.model_copy(update={"evidence": traced[-1].evidence})


def _with_copy(store: Store, fate: Fate, step: Step) -> Fate:
    """The copy that stays for a row, by its URL too, and how similar the two are."""
    copy = kept_copy(store, step, fate.row)
    if copy is None:
        return fate
    kept, similarity = copy
    try:
        batch = pool_rows(store, [kept])[1].get(kept)
    except RecordError:
        batch = None
    url = batch.strings(URL)[0].as_py() if batch is not None and batch.has(URL) else None
    evidence = None
    if similarity is not None:
        evidence = Evidence(value=similarity, limit=least_similarity(step))
    return fate.model_copy(update={"kept_row": kept, "kept_url": url, "evidence": evidence})


def _fates_of_pairs(store: Store, document: str, number: int | None) -> list[Fate]:
    """What happened to every row with this uid, URL or identity, looked up in the pool's tables."""
    column, value = (URL, document) if number is None else (ROW, number)
    if kernels.uids.is_uid(document):
        column, value = UID, document
    pool, result = run_pool(store), []
    names = [file.name for file in pool.files]
    for row, url in rows_with(open_store(pool.plan.input_uri), names, column, value):
        rejected = [*_rejected(store, "", row), *_set_aside(store, "", row)]
        fates_ = [_with_evidence(store, fate) for fate in rejected] or [
            Fate(row=row, shard=shard_of(row), number=number_of(row), url=url, fate="kept")
        ]
        result += [fate.model_copy(update={"url": fate.url or url}) for fate in fates_]
    return result


def _row_of(store: Store, document: str) -> int | None:
    if document.isdigit():
        return int(document)
    shard, colon, number = document.rpartition(":")
    if not colon or not number.isdigit():
        return None
    if not shard.isdigit():
        names = [file.name for file in run_pool(store).files] if shard else []
        if shard not in names:
            return None
        shard = str(names.index(shard))
    return int(shard) << 32 | int(number)


def _rejected(store: Store, url: str, row: int | None) -> Iterator[Fate]:
    for entry in store.list("rejected/"):
        with store.open(entry.name) as file:
            evidence_fields = ["value", "limit", "passage"]
            names = [ROW, "step", "operator", "reason", URL, *evidence_fields]
            table = pq.read_table(file, columns=names)
        match = pc.equal(table[URL], url) if row is None else pc.equal(table[ROW], row)
        for row_fields in table.filter(match).to_pylist():
            yield Fate(
                row=row_fields[ROW],
                shard=shard_of(row_fields[ROW]),
                number=number_of(row_fields[ROW]),
                url=row_fields[URL],
                fate="rejected",
                step=row_fields["step"] + 1,
                operator=row_fields["operator"],
                reason=row_fields["reason"],
                evidence=Evidence(**{name: row_fields[name] for name in evidence_fields})
                if any(row_fields[name] is not None for name in evidence_fields)
                else None,
            )


def _kept(store: Store, url: str, row: int | None) -> Iterator[Fate]:
    for file_ in read_chain(store)[-1].outputs:
        if not file_.name.endswith(".parquet"):
            continue
        with store.open(file_.name) as file:
            parquet = pq.ParquetFile(file)
            names = [n for n in (ROW, URL, PARENT) if n in parquet.schema_arrow.names]
            table = parquet.read(columns=names)
        if row is not None:
            match = pc.equal(table[ROW], row)
            if PARENT in names:
                match = pc.or_(match, pc.equal(table[PARENT], row))
        elif URL in names:
            match = pc.equal(table[URL], url)
        else:
            continue
        for row_fields in table.filter(match).to_pylist():
            where = row_fields.get(PARENT, row_fields[ROW])
            yield Fate(
                row=row_fields[ROW],
                shard=shard_of(where),
                number=number_of(where),
                url=row_fields.get(URL),
                fate="kept",
            )


def _set_aside(store: Store, document: str, row: int | None) -> Iterator[Fate]:
    for entry in store.list("quarantine/"):
        for line in store.read_bytes(entry.name).splitlines():
            bad_row = orjson.loads(line)
            url = bad_row.get("content", {}).get(URL)
            if bad_row["row"] == row or (row is None and url == document):
                yield Fate(
                    row=bad_row["row"],
                    shard=shard_of(bad_row["row"]),
                    number=number_of(bad_row["row"]),
                    url=url,
                    fate="set aside",
                    operator=bad_row["step"],
                    reason=bad_row["error"],
                )
