"""Delete what a service no longer needs: refused, orphaned and broken uploads, old evidence."""

from __future__ import annotations

import time
from collections.abc import Iterator

from leaderboard.database.states import StoredSubmission
from leaderboard.service.evidence import folder_of
from leaderboard.service.service import Service
from pipelines.records import Frozen

PAGE = 1000  # submissions read at a time
DAY = 86400.0  # seconds
UPLOAD_SECONDS = DAY  # an upload takes minutes: an older one was interrupted


class Pruned(Frozen):
    """What was removed, or in a dry run would be."""

    uploads: tuple[str, ...]
    bundles: tuple[str, ...]
    evidence: tuple[str, ...]
    num_bytes: int


def prune(service: Service, *, days: float = 30.0, dry_run: bool = False) -> Pruned:
    """Remove interrupted uploads, files that no submission names, and bundles refused long ago.

    `days`: how long a refused or withdrawn submission keeps its bundle. Its row in the database
    and its faults are kept.
    """
    now = time.time()
    kept, evidence = set(), {"shown/", "shown/tasks/"}  # of no single submission
    for submission in _all(service):
        old = submission.state in ("refused", "withdrawn") and submission.changed < now - days * DAY
        if submission.bundle and not old:
            kept.add(submission.bundle)
            evidence.add(folder_of(submission))
    sizes = {entry.name: entry.num_bytes for entry in service.files.list("bundles/")}
    young = {name for name in sizes if _age(service, name, now) < UPLOAD_SECONDS}
    bundles = sorted(set(sizes) - kept - young)
    shown = {entry.name: entry.num_bytes for entry in service.files.list("shown/")}
    stale = sorted(
        name for name in shown if f"{name.rsplit('/', 1)[0]}/" not in evidence and name not in young
    )
    broken = sorted(
        path
        for path in service.scratch.glob("upload-*")
        if path.is_file() and path.stat().st_mtime < now - UPLOAD_SECONDS
    )
    num_bytes = sum(sizes[name] for name in bundles) + sum(shown[name] for name in stale)
    num_bytes += sum(path.stat().st_size for path in broken)
    if not dry_run:
        for path in broken:
            path.unlink(missing_ok=True)
        for name in (*bundles, *stale):
            service.files.remove(name)
    return Pruned(
        uploads=tuple(path.name for path in broken),
        bundles=tuple(bundles),
        evidence=tuple(stale),
        num_bytes=num_bytes,
    )


def _all(service: Service) -> Iterator[StoredSubmission]:
    offset = 0
    while page := service.store.find(limit=PAGE, offset=offset):
        offset += len(page)
        yield from page


def _age(service: Service, name: str, now: float) -> float:
    """Seconds since a file was written, two days if unknown; a bundle precedes its row."""
    path = service.files.local_path(name)
    return now - path.stat().st_mtime if path is not None and path.exists() else DAY * 2
