"""Which fraction of each source and domain a deduplication removes, and when that is too much.

If nearly all of a source is removed, the reason is more often a mistake (a template matched as a
copy) than a source of copies. Whole documents are counted, by the column `source` and by the host
of the URL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.batch import Batch
from pipelines.errors import FailedError
from pipelines.records import Frozen
from pipelines.schema import URL

SOURCE = "source"
DOMAIN = "domain"
HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/:?#]*).*$"
MIN_ROWS = 20  # of a source or domain; the fraction of fewer documents says little
ALARM = 0.5  # fraction of a source or domain; a greater loss is reported
MAX_DOMAINS = 500  # counted per shard, those with most documents: a pool has millions

Counts = Mapping[str, Mapping[str, Sequence[int]]]


class TooMuchLost(FailedError):
    """A deduplication that removed more of a source or domain than `stop_at_loss` allows."""


class Loss(Frozen):
    """A source or domain that lost more than a given fraction of its documents.

    A domain's documents are counted only in shards where it is among the largest.
    """

    kind: str
    name: str
    rows: int
    lost: int

    @property
    def fraction(self) -> float:
        return self.lost / self.rows


class Losses:
    """Counts documents and removed ones, by source and by domain."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, list[int]]] = {SOURCE: {}, DOMAIN: {}}

    def count(self, batch: Batch, dropped: npt.NDArray[np.bool_]) -> None:
        """Add a batch; `dropped` (rows,) marks the documents that are removed."""
        if batch.has(SOURCE):
            self._add(SOURCE, batch.strings(SOURCE), dropped)
        if batch.has(URL):
            hosts = pc.replace_substring_regex(batch.strings(URL), pattern=HOST, replacement=r"\1")
            self._add(DOMAIN, hosts, dropped)

    def _add(self, kind: str, names: pa.Array, dropped: npt.NDArray[np.bool_]) -> None:
        encoded = names.fill_null("").dictionary_encode()
        codes = encoded.indices.to_numpy()
        rows = np.bincount(codes, minlength=len(encoded.dictionary))
        lost = np.bincount(codes, weights=dropped, minlength=len(rows)).astype(np.int64)
        counts = self._counts[kind]
        for name, number, lost_rows in zip(
            encoded.dictionary.to_pylist(), rows.tolist(), lost.tolist(), strict=True
        ):
            if name:
                known = counts.setdefault(name, [0, 0])
                known[0] += number
                known[1] += lost_rows

    def counts(self) -> dict[str, dict[str, list[int]]]:
        """Documents and removed ones by kind and name; only the largest domains."""
        domains = sorted(self._counts[DOMAIN].items(), key=lambda item: (-item[1][0], item[0]))
        return {SOURCE: dict(self._counts[SOURCE]), DOMAIN: dict(domains[:MAX_DOMAINS])}


def losses_of(parts: Iterable[Counts], *, above: float = ALARM) -> tuple[Loss, ...]:
    """Sources and domains of all shards that lost more than `above`, most lost documents first."""
    total: dict[tuple[str, str], list[int]] = {}
    for part in parts:
        for kind, names in part.items():
            for name, (rows, lost) in names.items():
                known = total.setdefault((kind, name), [0, 0])
                known[0] += rows
                known[1] += lost
    losses = [
        Loss(kind=kind, name=name, rows=rows, lost=lost)
        for (kind, name), (rows, lost) in total.items()
        if rows >= MIN_ROWS and lost > above * rows
    ]
    return tuple(sorted(losses, key=lambda loss: (-loss.lost, loss.kind, loss.name)))


def check_losses(parts: Iterable[Counts], *, most: float, label: str) -> None:
    """TooMuchLost when a source or domain lost more than `most` of its documents."""
    losses = losses_of(parts, above=most)
    if losses:
        worst = losses[0]
        others = f" and {len(losses) - 1:,} more" if len(losses) > 1 else ""
        raise TooMuchLost(
            f"{label} takes {worst.lost:,} of the {worst.rows:,} documents of the {worst.kind} "
            f"{worst.name!r}{others}, more than stop_at_loss: {most}; look at the pairs in "
            "compared/ of this run, then choose another threshold, or run with a higher "
            "stop_at_loss"
        )
