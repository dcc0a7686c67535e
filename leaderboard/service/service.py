"""What the service does with a submission, apart from HTTP: receive it, check it, read it."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Event, Thread

import pyarrow as pa

from leaderboard import rules
from leaderboard.board.boards import Library
from leaderboard.database.auth import Token
from leaderboard.database.connection import StoreError
from leaderboard.database.people import may_send
from leaderboard.database.states import RULE_BOOK, StoredSubmission
from leaderboard.database.store import LEASE_SECONDS, Store
from leaderboard.service.evidence import write_evidence
from leaderboard.service.question_texts import write_texts
from leaderboard.service.reader import Readers, shared_readers
from leaderboard.submissions.bundle import LIMITS, RECORD, Bundle, Limits, look_at, open_bundle
from leaderboard.submissions.chain import seeds_of
from leaderboard.submissions.facts import Facts
from leaderboard.submissions.faults import BundleError, Words, fault
from leaderboard.submissions.limits import Limit, TooLong, limited
from leaderboard.submissions.logs import read_log
from leaderboard.submissions.novelty import Notice
from leaderboard.submissions.validate import check_bundle
from pipelines.storage.base import Store as Files
from pipelines.storage.base import copy_into

CHECK_SECONDS = (
    3600.0  # a check's lease is not renewed after this; its stages together may take half of it
)
SHOWN = Limit(seconds=600, num_bytes=2 << 30)  # for writing what pages show
MEMORY = "the check needed more memory than it may have"
TIME = "the check needed more time than it may have"


class NotAllowed(PermissionError):
    """The token may not do this; the message says what it may."""


@dataclass
class Service:
    """The database, the storage of bundles, and the limits of a check."""

    store: Store
    files: Files
    limits: Limits = LIMITS
    readers: Readers = field(default_factory=shared_readers)
    eval_data: str = ""  # a folder of evaluation data of our own, for the texts of questions
    library: Library = field(init=False)
    scratch: Path = field(init=False)

    def __post_init__(self) -> None:
        self.library = Library(self.store)
        home = self.files.local_path("incoming/x")
        scratch = home.parent if home is not None else Path(tempfile.gettempdir())
        scratch.mkdir(parents=True, exist_ok=True)
        self.scratch = scratch

    def receive(self, path: Path, token: Token) -> tuple[StoredSubmission, bool]:
        """Register a bundle uploaded to `path`; returns the submission and whether it is new.

        The bundle's bytes are durable before the database names them. BundleError when the bundle
        cannot be read, NotAllowed when it is from another team or over the team's quota.
        """
        look_at(path, limits=self.limits)
        claim = self.readers.claim(path, self.limits)
        if unicodedata.normalize("NFC", claim.team) != unicodedata.normalize("NFC", token.team):
            refusal = fault(RECORD, "work.team", claim.team, token.team, "the team of your token")
            raise NotAllowed(str(refusal))
        num_bytes = path.stat().st_size
        try:
            may_send(self.store, token.team, num_bytes)
        except StoreError as error:
            raise NotAllowed(str(error)) from None
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"bundles/{claim.id}-{sha256[:16]}.zip"
        if not self.files.exists(name):
            with open(path, "rb") as source, self.files.create(name) as target:
                copy_into(source, target)
        try:
            return self.store.receive(
                id=claim.id,
                team=token.team,
                token=token.id,
                benchmark=claim.benchmark,
                scale=claim.scale,
                track=claim.track,
                method=claim.method,
                bundle=name,
                bundle_sha256=sha256,
                bundle_bytes=num_bytes,
            )
        except StoreError as error:
            raise NotAllowed(str(error)) from None

    def bundle(self, submission: StoredSubmission) -> Bundle:
        """The bundle of a submission. FileNotFoundError for imported rows, which have no bundle."""
        if not submission.bundle:
            raise FileNotFoundError(f"{submission.id} was imported; there is no bundle")
        return _opened(self.local(submission), submission.bundle_sha256)

    def local(self, submission: StoredSubmission) -> Path:
        """A local file with the bundle; from a bucket it is downloaded once."""
        path = self.files.local_path(submission.bundle)
        if path is not None:
            return path
        kept = self.scratch / f"leaderboard-{submission.bundle_sha256}.zip"
        if not kept.exists():
            whole = kept.with_suffix(f".{secrets.token_hex(4)}")
            with open(whole, "wb") as target, self.files.open(submission.bundle) as source:
                while data := source.read(1 << 20):
                    target.write(data)
            whole.replace(kept)
        return kept

    def write_texts(self, bundle: Bundle) -> None:
        """Write the question texts that may be shown of a bundle's tasks, from our own data."""
        if self.eval_data:
            tasks = next(iter(seeds_of(bundle.record).values())).work.tasks
            write_texts(self.files, self.eval_data, tasks)

    # ---- checks

    def check_next(
        self, owner: str, *, lease_seconds: float = LEASE_SECONDS
    ) -> StoredSubmission | None:
        """Check the submission that has waited longest; None when none is waiting."""
        submission = self.store.claim(owner, lease_seconds=lease_seconds)
        if submission is None:
            return None
        done = Event()
        beat = Thread(target=_keep, args=(self.store, submission.id, owner, lease_seconds, done))
        beat.daemon = True
        beat.start()
        facts: Facts | None = None
        notices: tuple[Notice, ...] = ()
        try:
            bundle = open_bundle(self.local(submission), limits=self.limits)
            checked = check_bundle(bundle, known=BoardKnown(self, submission.id))
            faults, measured = checked.faults, checked.measured
            facts, notices = checked.facts, checked.notices
            if measured is not None:
                with limited(SHOWN):
                    write_evidence(self.files, submission, bundle, measured)
                    self.write_texts(bundle)
        except BundleError as error:
            faults, measured = error.faults, None
        except (MemoryError, TooLong) as error:
            limit = Words(MEMORY if isinstance(error, MemoryError) else TIME)
            faults, measured = (fault(submission.id, "", limit, Words("less")),), None
        finally:
            done.set()
        if (
            self.store.checked(submission.id, owner, faults, measured, facts=facts, notices=notices)
            and not faults
            and admits(submission, notices)
        ):
            why = "the rule book requires a reviewer only where a notice does"
            self.store.move(submission.id, "accepted", who=RULE_BOOK, why=why)
        return submission


def admits(submission: StoredSubmission, notices: Sequence[Notice]) -> bool:
    """Whether an entry without faults is accepted without a reviewer.

    It is when the rule book of its scale allows that and no notice needs a decision. An entry
    whose process was killed between check and decision waits for a reviewer.
    """
    scale = rules.load_benchmark(submission.benchmark).scale(submission.scale)
    return scale.review == "machine" and all(notice.informs for notice in notices)


@dataclass
class BoardKnown:
    """What the board knows of other submissions, for the check of one."""

    service: Service
    own: str
    read: dict[str, Sequence[Facts]] = field(default_factory=dict)

    def entries(self, benchmark: str) -> Sequence[Facts]:
        if benchmark not in self.read:
            known = self.service.store.facts(benchmark)
            self.read[benchmark] = [entry for entry in known if entry.id != self.own]
        return self.read[benchmark]

    def names(self) -> Sequence[str]:
        return self.service.store.teams()

    def log(self, id: str, task: str) -> pa.Table | None:
        bundle = self.service.bundle(self.service.store.get(id))
        return read_log(bundle, next(iter(seeds_of(bundle.record))), task)

    def pinned(self, task: str) -> str | None:
        return self.service.store.pins().get(task)


@lru_cache(maxsize=64)
def _opened(path: Path, sha256: str) -> Bundle:
    del sha256  # part of the key only
    return open_bundle(path)


def _keep(store: Store, id: str, owner: str, lease_seconds: float, done: Event) -> None:
    """Renew the lease of a long check until it is done or out of time."""
    until = time.monotonic() + CHECK_SECONDS
    while not done.wait(lease_seconds / 3):
        if time.monotonic() > until or not store.renew(id, owner, lease_seconds=lease_seconds):
            return
