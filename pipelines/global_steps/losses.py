"""Which part of each source and domain a deduplication takes, and when that is too much.

A source of which nearly everything goes is more often a mistake (a template taken for a copy) than
a source of copies. Counted are whole documents, by the column `source` and by the host of the URL.
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
MIN_ROWS = 20  # documents below which a part says little
ALARM = 0.5  # of the documents of a source or domain: more than that is reported
MAX_DOMAINS = 500  # of a shard, those with most documents: a pool has millions

Counts = Mapping[str, Mapping[str, Sequence[int]]]


class TooMuchLost(FailedError):
    """A deduplication that took more of a source or domain than it was allowed to."""


class Loss(Frozen):
    """A source or domain of which more than a stated part went.

    Of domains, the documents of those shards in which it was among the largest.
    """

    kind: str
    name: str
    rows: int
    lost: int

    @property
    def fraction(self) -> float:
        return self.lost / self.rows


class Losses:
    """Counts documents and those that go, by source and by domain."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, list[int]]] = {SOURCE: {}, DOMAIN: {}}

    def count(self, batch: Batch, dropped: npt.NDArray[np.bool_]) -> None:
        """Take a batch, and which of its documents go."""
        if batch.has(SOURCE) and pa.types.is_large_string(batch.column(SOURCE).type):
            self._add(SOURCE, batch.column(SOURCE), dropped)
        if batch.has(URL):
            hosts = pc.replace_substring_regex(batch.column(URL), pattern=HOST, replacement=r"\1")
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
        """Documents and those that went, by kind and name; of domains the largest."""
        domains = sorted(self._counts[DOMAIN].items(), key=lambda item: (-item[1][0], item[0]))
        return {SOURCE: dict(self._counts[SOURCE]), DOMAIN: dict(domains[:MAX_DOMAINS])}


def losses_of(parts: Iterable[Counts], *, above: float = ALARM) -> tuple[Loss, ...]:
    """The sources and domains of all shards that lost more than this part, the largest first."""
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
