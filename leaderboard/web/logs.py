"""The log of a service: one line of JSON each, bounded in number and, in a file, in bytes."""

from __future__ import annotations

import logging
import logging.handlers
import time
from pathlib import Path

import orjson

LINES_PER_SECOND = 500  # more is an attack, and its lines all say the same
FILE_BYTES, FILES = 10 << 20, 5


class Lines(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        message = record.getMessage()
        if record.name == "leaderboard.access":
            line |= orjson.loads(message)
        else:
            line["message"] = message[:4000]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)[-8000:]
        return orjson.dumps(line).decode()


class Bounded(logging.Filter):
    """Lets so many lines a second through, and says how many it left out."""

    def __init__(self, most: int = LINES_PER_SECOND) -> None:
        super().__init__()
        self.most = most
        self._second = 0
        self._number = 0

    def filter(self, record: logging.LogRecord) -> bool:
        second = int(record.created)
        if second != self._second:
            left_out = self._number - self.most
            self._second, self._number = second, 0
            if left_out > 0:
                record.msg = f"{left_out} lines left out; {record.getMessage()}"
                record.args = ()
                record.name = "leaderboard"
        self._number += 1
        return self._number <= self.most


def set_up(path: Path | None = None, *, requests: bool = True) -> None:
    """Log to a file that is rotated, or to standard error."""
    handler: logging.Handler = logging.StreamHandler()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8"
        )
    handler.setFormatter(Lines())
    handler.addFilter(Bounded())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("leaderboard").setLevel(logging.INFO)
    logging.getLogger("leaderboard.access").setLevel(logging.INFO if requests else logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
