"""The json of a sample: the uid in it, whoever wrote the file.

Python's json writes NaN for a missing score; Windows editors add a byte order mark; old tools
write Latin-1. None of that is a reason to lose a sample whose uid is good.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from pipelines.kernels.uids import halves

NO_UID, BROKEN_JSON = "no_uid", "json_without_uid"


def read_json(data: bytes | memoryview) -> Any:
    """The value of a sample's json; NaN and infinity are numbers. ValueError for broken JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        content = bytes(data)
    try:
        text = content.decode("utf-8-sig", "surrogatepass")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def uid_of_json(data: bytes | memoryview) -> tuple[int, int] | str:
    """The uid as two numbers, or the word by which a sample without one is counted."""
    try:
        uid = read_json(data)["uid"]
    except (ValueError, KeyError, TypeError):
        return BROKEN_JSON
    if not isinstance(uid, str):
        return NO_UID
    try:
        return halves(uid)
    except ValueError:
        return NO_UID
