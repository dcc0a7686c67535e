from __future__ import annotations

import orjson
import pytest

from pipelines.records import (
    File,
    PoolRecord,
    PoolSource,
    PoolWork,
    RecordError,
    made_by,
    now,
    parse_record,
)

SOURCE = PoolSource(name="page", version="1", sha256="ab", licence="MIT")


def pool(**changes: object) -> PoolRecord:
    given = {
        "work": PoolWork(name="p", sources=(SOURCE,)),
        "parents": {},
        "outputs": [File(name="data/0.x1.parquet", sha256="cd", num_bytes=3, num_rows=2)],
        "counts": {"documents": 2},
        "made_by": made_by(now()),
    }
    return PoolRecord.seal(**{**given, **changes})


def test_reads_back_equal() -> None:
    record = pool()
    assert parse_record(record.to_json(), source="r") == record


def test_equal_work_has_an_equal_id_whatever_the_file_is_called() -> None:
    other = [File(name="data/0.another.parquet", sha256="cd", num_bytes=3, num_rows=2)]
    assert pool(outputs=other).id == pool().id


def test_another_time_or_machine_does_not_change_the_id() -> None:
    there = made_by("2020-01-01T00:00:00Z", locations={"out": "elsewhere"})
    assert pool(made_by=there).id == pool().id


@pytest.mark.parametrize(
    "changes",
    [
        {"work": PoolWork(name="q", sources=(SOURCE,))},
        {"parents": {"pool": "x"}},
        {"outputs": [File(name="data/0.x1.parquet", sha256="ce", num_bytes=3, num_rows=2)]},
        {"counts": {"documents": 3}},
        {"status": "failed"},
    ],
    ids=["work", "parents", "bytes", "counts", "status"],
)
def test_other_work_or_other_bytes_change_the_id(changes: dict[str, object]) -> None:
    assert pool(**changes).id != pool().id


def test_the_key_is_known_before_the_work_is_done() -> None:
    work = PoolWork(name="p", sources=(SOURCE,))
    assert PoolRecord.key_of(work=work, parents={}) == pool().key


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"documents": 2', b'"documents": 3'), (b'"licence": "MIT"', b'"licence": "BSD"')],
    ids=["counts", "work"],
)
def test_an_edited_record_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(RecordError, match=r"r\.json: .*the record was edited"):
        parse_record(pool().to_json().replace(old, new), source="r.json")


def test_a_field_nobody_knows_is_refused() -> None:
    value = {**orjson.loads(pool().to_json()), "note": "hello"}
    with pytest.raises(RecordError, match="note"):
        parse_record(orjson.dumps(value), source="r.json")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"kind": "spaceship"}'])
def test_what_is_no_record_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(RecordError, match=r"r\.json"):
        parse_record(data, source="r.json")


def test_older_schema_versions_keep_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = pool().to_json()
    monkeypatch.setattr(PoolRecord, "SCHEMA", 2)
    assert parse_record(stored, source="r").schema_version == 1
