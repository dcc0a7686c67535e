"""Rewrite evidence that is missing or was written by an earlier version of the program.

After a migration, or when a backup was restored without evidence, an idle check process goes
through the checked submissions and writes what pages show from their bundles. Rows and states do
not change; `leaderboard recompute` changes those.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from leaderboard.database.states import StoredSubmission
from leaderboard.service.evidence import FORM, read_evidence, write_evidence
from leaderboard.service.service import BoardKnown, Service
from leaderboard.submissions.faults import BundleError
from leaderboard.submissions.validate import check_bundle
from pipelines.storage.base import write_bytes

log = logging.getLogger("leaderboard")
PAGE = 200  # submissions read at a time
DONE = f"shown/form-{FORM}"
STATES = ("accepted", "needs_review")


def renew(service: Service) -> Iterator[str]:
    """Rewrite old evidence, yielding after each submission; nothing to do once all is new."""
    if service.files.exists(DONE):
        return
    for submission in _checked(service):
        evidence = read_evidence(service.files, submission)
        if evidence is None or evidence.form < FORM:
            _write(service, submission)
        yield submission.id
    write_bytes(service.files, DONE, b"")


def _write(service: Service, submission: StoredSubmission) -> None:
    try:
        bundle = service.bundle(submission)
        measured = check_bundle(bundle, known=BoardKnown(service, submission.id)).measured
    except (BundleError, FileNotFoundError, MemoryError) as error:
        log.warning("%s: its evidence cannot be written again: %s", submission.id, error)
        return
    if measured is None:
        log.warning("%s no longer passes its check; its evidence is kept as it is", submission.id)
        return
    write_evidence(service.files, submission, bundle, measured)
    service.write_texts(bundle)


def _checked(service: Service) -> Iterator[StoredSubmission]:
    offset = 0
    while page := service.store.find(states=STATES, limit=PAGE, offset=offset):
        offset += len(page)
        yield from (submission for submission in page if submission.bundle)
