"""`--overwrite`: remove the run in a folder, and only its files.

A run's files are those named by its commits and its record, the leftovers of killed attempts, and a
few fixed names. Other files in the folder are not removed.
"""

from __future__ import annotations

import logging
import re

from pipelines.engine.run_folder import (
    FOLDERS,
    RUN,
    STATS,
    RunFailed,
    read_run,
    refuse_while_running,
)
from pipelines.execution.monitor import EVENTS, FAILED, PROGRESS
from pipelines.formats.uid_subset import SUBSET_FILE, VALUES_FILE
from pipelines.storage.base import Store
from pipelines.storage.chain import CHAIN, RECORD
from pipelines.storage.commits import DONE, all_done, is_attempt

log = logging.getLogger(__name__)

COMMITS = re.compile(rf"({DONE}|{FAILED})/[^/]+\.json")
REPORTS = ("report.html", "forecast.json")  # written from a run's folder by pipelines.reports
FIXED = (STATS, CHAIN, EVENTS, PROGRESS, SUBSET_FILE, VALUES_FILE, *REPORTS)


def forget_run(store: Store) -> int:
    """Remove the run in a folder, so that another can start there; returns the number of files.

    Does nothing in an empty folder. RunFailed for a folder with files but no run.json, and while a
    driver works on it. `run.json` is removed last, so that an interrupted removal can be repeated.
    """
    names = [entry.name for entry in store.list()]
    if not names:
        return 0
    if RUN not in names:
        raise RunFailed(
            f"{store.uri} holds files ({names[0]} among them) and no run: --overwrite removes runs "
            f"only, which have a {RUN}; choose another --out, or remove that folder yourself"
        )
    read_run(store)  # refuses another program's run.json
    refuse_while_running(store, what="--overwrite")
    committed = {file.name for done in all_done(store) for file in done.files}
    own = [name for name in names if name in committed or _is_own(name)]
    for name in (RECORD, *own):  # the record first: a half-removed run must not read as a dataset
        store.remove(name)
    store.discard_unfinished()
    store.remove(RUN)
    left = len(set(names) - {*own, RECORD, RUN})
    log.info("%s: removed the run, %d files", store.uri, len(names) - left)
    if left:
        log.warning("%s: %d files that are not part of the run were not removed", store.uri, left)
    return len(names) - left


def _is_own(name: str) -> bool:
    folder, _, file = name.partition("/")
    if not file:
        return name in FIXED
    if COMMITS.fullmatch(name):
        return True
    return folder in FOLDERS and is_attempt(file)
