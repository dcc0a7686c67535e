"""Recompute rows and evidence from stored bundles, for a new suite version or new pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from leaderboard.service.evidence import write_evidence
from leaderboard.service.service import BoardKnown, Service
from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.faults import BundleError, Fault
from leaderboard.submissions.validate import check_bundle
from pipelines.records import Frozen

PAGE = 200  # submissions read at a time


class Recomputed(Frozen):
    """The result for one submission; one with `faults` no longer passes, and keeps its row."""

    id: str
    before: float
    after: float
    faults: tuple[Fault, ...] = ()


def recompute(service: Service, ids: Sequence[str] = (), *, who: str) -> Iterator[Recomputed]:
    """Check submissions again and replace their rows with the results.

    Without `ids`: all that are accepted or waiting for review. States do not change: a submission
    that no longer passes keeps its row and is reported with its faults.
    """
    store = service.store
    for id_ in ids or list(_checked(service)):
        submission = store.get(id_)
        rows = store.rows([id_])
        if not submission.bundle or not rows:
            continue
        before = rows[0].headline.value
        try:
            bundle = open_bundle(service.local(submission), limits=service.limits)
            checked = check_bundle(bundle, known=BoardKnown(service, id_))
        except (BundleError, FileNotFoundError) as error:
            faults = error.faults if isinstance(error, BundleError) else ()
            yield Recomputed(id=id_, before=before, after=before, faults=faults)
            continue
        if checked.measured is None:
            yield Recomputed(id=id_, before=before, after=before, faults=checked.faults)
            continue
        write_evidence(service.files, submission, bundle, checked.measured)
        store.replaced(id_, checked.measured, who=who)
        after = checked.measured.row.headline.value
        yield Recomputed(id=id_, before=before, after=after)


def _checked(service: Service) -> Iterator[str]:
    offset = 0
    states = ("accepted", "needs_review")
    while page := service.store.find(states=states, limit=PAGE, offset=offset):
        offset += len(page)
        yield from (submission.id for submission in page if submission.bundle)
