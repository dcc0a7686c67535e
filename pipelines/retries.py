"""Which requests are sent again, how often and how long: one policy for every server.

A request is sent again when its fault may pass: no answer, an answer that broke off, and
a status of which `passes` says so. The pause between two tries doubles, with chance, up to
a limit; who has to wait for a server counts seconds (`Patience.seconds`), who can leave an item out
counts tries (`Patience.tries`).

    | who                        | patience                                               |
    | -------------------------- | ------------------------------------------------------ |
    | a bucket                   | 300 s once it answered, 30 s before (a wrong address?) |
    | files and tables over HTTP | 8 tries, about a minute: a restart is survived         |
    | the hub                    | 5 tries, seconds: its client retries downloads itself  |
    | images of strangers        | `--retries`, 2 unless said otherwise                   |
    | bundles sent to a board    | 8 tries, as over HTTP; sent twice is one submission    |
    | a model behind HTTP        | the operator's `tries`, 4 unless said otherwise        |

Not here: Ray's retries of tasks whose machine was lost (`execution/ray_executor.py`), and checks of
submissions that died (`leaderboard/database/store.py`).
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

SAID_ALOUD_SECONDS = 1.0  # pauses from here on are reported: somebody may be watching

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a request is tried: at most `tries` times, or until `seconds` have passed."""

    tries: int | None = None
    seconds: float | None = None
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 20.0  # a server that is back is noticed by then

    def pause(self, tries: int) -> float:
        """The seconds before another try, after so many."""
        doubled = self.first_pause_seconds * 2 ** min(tries - 1, 30)  # no overflow
        return min(doubled, self.longest_pause_seconds) * random.uniform(0.5, 1.5)

    def is_over(self, tries: int, started: float) -> bool:
        """Whether no further try is made: `started` is of time.monotonic."""
        if self.tries is not None and tries >= self.tries:
            return True
        return self.seconds is not None and time.monotonic() >= started + self.seconds


BUCKET = Patience(seconds=300.0, first_pause_seconds=0.1, longest_pause_seconds=10.0)
NEW_BUCKET = Patience(seconds=30.0, first_pause_seconds=0.1, longest_pause_seconds=10.0)
HTTP = Patience(tries=8)
HUB = Patience(tries=5)
STRANGERS = Patience()
BOARD = Patience(tries=8, first_pause_seconds=0.5)


def passes(status: int) -> bool:
    """Whether another try may get another answer: asked too early or too often, or its own fault.

    501 and 505 mean that the server cannot do what is asked; it will not learn it.
    """
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


HTTP_CLIENTS = ("httpx", "httpx2")
"""What the hub's client asks by: the second since its version 2."""


def hub_may_pass(error: Exception) -> bool:
    """Whether an error of the hub's client is one of the connection, or a status that passes."""
    response = getattr(error, "response", None)
    if response is not None:
        return passes(response.status_code)
    return type(error).__module__.split(".")[0] in HTTP_CLIENTS


def patiently(
    request: Callable[[], T],
    *,
    what: str,
    may_pass: Callable[[Exception], bool],
    patience: Callable[[], Patience],
) -> T:
    """The answer of a request; sent again while `may_pass` says that its error may pass.

    `patience` is asked after each error, as it may grow when the server is known to exist. When it
    is over, or the error does not pass, the error itself is raised.
    """
    started = time.monotonic()
    tries = 0
    while True:
        try:
            return request()
        except Exception as error:
            tries += 1
            chosen = patience()
            if not may_pass(error) or chosen.is_over(tries, started):
                raise
            pause = chosen.pause(tries)
            if chosen.seconds is not None:
                pause = min(pause, max(0.0, started + chosen.seconds - time.monotonic()))
            if pause >= SAID_ALOUD_SECONDS:
                log.warning("%s: %s; trying again in %.0f s", what, error, pause)
            time.sleep(pause)
