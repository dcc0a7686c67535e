"""`--overwrite`: the run in a folder is removed, and nothing that is not its own.

A run's files are those that its commits and its record name, what killed attempts at them left, and
a handful of fixed names; whatever else is in the folder stays there.
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
    """Remove the run of a folder, so that another may begin there; how many files went.

    Nothing happens in an empty folder. RunFailed for a folder that holds files and no run.json, and
    while a driver works on it. `run.json` goes last: a removal that was stopped is done again.
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
    for name in (RECORD, *own):  # the record first: what is half removed is no dataset
        store.remove(name)
    store.discard_unfinished()
    store.remove(RUN)
    left = len(set(names) - {*own, RECORD, RUN})
    log.info("%s: the run that was there is removed, %d files", store.uri, len(names) - left)
    if left:
        log.warning("%s: %d files that are not the run's stay there", store.uri, left)
    return len(names) - left


def _is_own(name: str) -> bool:
    folder, _, file = name.partition("/")
    if not file:
        return name in FIXED
    if COMMITS.fullmatch(name):
        return True
    return folder in FOLDERS and is_attempt(file)
