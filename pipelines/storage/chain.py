"""A stage's record and, next to it, its ancestors: `record.json` and `chain.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import orjson

from pipelines.records import Record, RecordError, parse_record
from pipelines.storage.base import Store, write_bytes

RECORD = "record.json"
CHAIN = "chain.json"
R = TypeVar("R", bound=Record)


def write_chain(store: Store, records: Sequence[Record]) -> None:
    """Write the ancestors of a record next to it, each whole."""
    parts = [record.to_json().strip() for record in records]
    write_bytes(store, CHAIN, b"[\n" + b",\n".join(parts) + b"\n]\n")


def read_chain(store: Store) -> list[Record]:
    """The ancestors of a stage's record, the pool first, and the record itself last.

    RecordError when the folder holds no record or one that is not what it says.
    """
    records = []
    if store.exists(CHAIN):
        for value in orjson.loads(store.read_bytes(CHAIN)):
            where = f"{store.uri}/{CHAIN}"
            records.append(parse_record(orjson.dumps(value), source=where))
    if not store.exists(RECORD):
        raise RecordError(f"{store.uri} holds no {RECORD}: its stage has not finished")
    where = f"{store.uri}/{RECORD}"
    records.append(parse_record(store.read_bytes(RECORD), source=where))
    return records


def standing(store: Store, *, key: str, kind: type[R], other: str) -> R | None:
    """The record of this very work, where it was done before; None where nothing is.

    RecordError for other work in the folder; `other` says what may differ.
    """
    if not store.exists(RECORD):
        return None
    where = f"{store.uri}/{RECORD}"
    record = parse_record(store.read_bytes(RECORD), source=where)
    if not isinstance(record, kind) or record.key != key:
        raise RecordError(f"{where} is of other work ({other}); choose an empty --out")
    return record
