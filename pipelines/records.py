"""The records: who made what from which.

Every stage of a round leaves one frozen record, and each record names its parents by id:

    PoolRecord -> DatasetRecord -> PackedRecord -> ModelRecord -> ScoresRecord -> Submission

`key` is the hash of the work asked for (kind, parents, parameters); it names files and is what
resuming looks for. `id` is the hash of the key and of what came out (checksums of the stored bytes,
counts, results), so equal work has an equal id and a changed input or output cannot hide.
`made_by` says where and when; it is outside both.
"""

from __future__ import annotations

import hashlib
import platform
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipelines.errors import DataError

JSON = Any  # a value that JSON can hold


class RecordError(DataError):
    """A record that cannot be read, does not fit its own hash, or breaks the chain."""


class Frozen(BaseModel):
    """A model that cannot be changed and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: JSON) -> bytes:
    """One byte string per value: sorted keys, no spaces, shortest floats that read back equal."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: JSON) -> str:
    """Thirty-two hexadecimal digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:32]


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class File(Frozen):
    """One stored file: its name below the run's folder, and what its bytes are."""

    name: str
    sha256: str
    num_bytes: int
    num_rows: int | None = None

    def content(self) -> list[JSON]:
        """What of the file counts for an id: the bytes, not the name they were stored under."""
        return [self.sha256, self.num_bytes, self.num_rows]


class AssetRef(Frozen):
    """An asset as a record names it."""

    name: str
    sha256: str


class Module(Frozen):
    """A participant's own Python file, embedded whole: changed code is another dataset."""

    name: str
    sha256: str
    text: str


class MadeBy(Frozen):
    """Where, when and with what a record was made. Outside key and id."""

    revision: str | None = None
    dirty: bool | None = None
    python: str
    platform: str
    host: str
    versions: dict[str, str]
    started: str
    finished: str
    locations: dict[str, str] = Field(default_factory=dict)
    figures: dict[str, float] = Field(default_factory=dict)


VERSIONED = (
    "numpy",
    "pyarrow",
    "pydantic",
    "orjson",
    "zstandard",
    "fastwarc",
    "resiliparse",
    "fasttext-community",
    "tokenizers",
    "torch",
    "numba",
    "ray",
    "open_clip_torch",
    "webdataset",
)
"""Packages whose versions a record names: those that can change what comes out."""


def now() -> str:
    """The time in UTC, to the second, as in 2026-11-23T10:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def made_by(
    started: str,
    *,
    locations: Mapping[str, str] | None = None,
    figures: Mapping[str, float] | None = None,
) -> MadeBy:
    """Describe this process: code revision, library versions, host, times."""
    revision, dirty = _code_revision()
    versions = {name: version for name in VERSIONED if (version := _version_of(name))}
    return MadeBy(
        revision=revision,
        dirty=dirty,
        python=platform.python_version(),
        platform=platform.platform(),
        host=socket.gethostname(),
        versions=versions,
        started=started,
        finished=now(),
        locations=dict(locations or {}),
        figures=dict(figures or {}),
    )


@cache
def _version_of(package: str) -> str | None:
    """The version of an installed package; None for one that is not.

    Only its line is read: parsing all of a package's description takes ten times as long, and with
    fourteen packages a tenth of a short run.
    """
    try:
        installed = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    line = re.search(r"^Version:\s*(\S+)", installed.read_text("METADATA") or "", re.MULTILINE)
    return line[1] if line else installed.version


def _code_revision() -> tuple[str | None, bool | None]:
    """The git revision of the checkout this file is in; (None, None) outside a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None, None
    run = ["git", "-C", str(root)]
    try:
        revision = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None, None
    if revision.returncode != 0 or changes.returncode != 0:
        return None, None
    return revision.stdout.strip(), bool(changes.stdout.strip())


class Record(Frozen):
    """What all records share. `seal` makes one; reading one checks its hashes."""

    SCHEMA: ClassVar[int] = 1

    kind: str
    schema_version: int
    key: str
    id: str
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    parents: dict[str, str]
    work: Frozen
    outputs: tuple[File, ...] = ()
    counts: dict[str, int] = Field(default_factory=dict)
    results: JSON = None
    made_by: MadeBy

    @classmethod
    def key_of(cls, *, work: Frozen, parents: Mapping[str, str]) -> str:
        """The key that work on these parents has, known before the work is done."""
        kind = cls.model_fields["kind"].default
        return _key(kind, cls.SCHEMA, parents, work)

    @classmethod
    def seal(
        cls,
        *,
        work: Frozen,
        parents: Mapping[str, str],
        made_by: MadeBy,
        outputs: Sequence[File] = (),
        counts: Mapping[str, int] | None = None,
        results: JSON = None,
        status: Literal["done", "failed"] = "done",
        error: str | None = None,
    ) -> Self:
        """Compute key and id and return the finished record."""
        kind = cls.model_fields["kind"].default
        key = _key(kind, cls.SCHEMA, parents, work)
        counts = dict(counts or {})
        id_ = _id(key, status, outputs, counts, results)
        return cls.model_validate(
            {
                "kind": kind,
                "schema_version": cls.SCHEMA,
                "key": key,
                "id": id_,
                "status": status,
                "error": error,
                "parents": dict(parents),
                "work": work,
                "outputs": tuple(outputs),
                "counts": counts,
                "results": results,
                "made_by": made_by,
            }
        )

    @model_validator(mode="after")
    def _check_hashes(self) -> Self:
        key = _key(self.kind, self.schema_version, self.parents, self.work)
        if key != self.key:
            raise ValueError(
                f"the key of this {self.kind} record is {self.key}, but its parents and work hash "
                f"to {key}: the record was edited; make it again with the command of its stage"
            )
        id_ = _id(self.key, self.status, self.outputs, self.counts, self.results)
        if id_ != self.id:
            raise ValueError(
                f"the id of this {self.kind} record is {self.id}, but its outputs, counts and "
                f"results hash to {id_}: the record was edited; make it again"
            )
        return self

    def to_json(self) -> bytes:
        """The record as it is stored: indented JSON with a final newline."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        return orjson.dumps(self.model_dump(mode="json"), option=options)


def _key(kind: str, schema_version: int, parents: Mapping[str, str], work: Frozen) -> str:
    return digest(
        {
            "kind": kind,
            "schema_version": schema_version,
            "parents": dict(parents),
            "work": work.model_dump(mode="json"),
        }
    )


def _id(
    key: str, status: str, outputs: Sequence[File], counts: Mapping[str, int], results: JSON
) -> str:
    if isinstance(results, BaseModel):
        results = results.model_dump(mode="json")
    return digest(
        {
            "key": key,
            "status": status,
            "outputs": [file.content() for file in outputs],
            "counts": dict(counts),
            "results": results,
        }
    )


class PoolSource(Frozen):
    """One thing a pool was made from, for example a package file, with its licence."""

    name: str
    version: str
    sha256: str
    licence: str
    status: Literal["pinned", "changed", "missing"] = "pinned"


class PoolWork(Frozen):
    name: str
    variant: str = "raw"
    sources: tuple[PoolSource, ...]
    parameters: dict[str, JSON] = Field(default_factory=dict)


class PoolRecord(Record):
    """Where documents come from. No parents."""

    kind: Literal["pool"] = "pool"
    work: PoolWork


class DatasetWork(Frozen):
    pipeline: dict[str, JSON]
    modules: tuple[Module, ...] = ()
    assets: tuple[AssetRef, ...] = ()
    external: bool = False
    quarantine: bool = False
    output: dict[str, JSON] = Field(default_factory=dict)


class DatasetRecord(Record):
    """What a participant made. Parent: `pool`."""

    kind: Literal["dataset"] = "dataset"
    work: DatasetWork


class AssetWork(Frozen):
    """A file that a command made for operators, as a trained classifier."""

    name: str
    licence: str
    inputs: tuple[AssetRef, ...]
    parameters: dict[str, JSON] = Field(default_factory=dict)


class AssetRecord(Record):
    """How an asset was made. Parent: `pool`, when documents of it were used."""

    kind: Literal["asset"] = "asset"
    work: AssetWork


class PackedWork(Frozen):
    """How a dataset was packed. Images with captions have no tokenizer, length or seed here."""

    tokenizer: AssetRef | None = None
    sequence_length: int | None = None
    seed: int | None = None
    mode: str
    layout: str
    parameters: dict[str, JSON] = Field(default_factory=dict)


class PackedRecord(Record):
    """Training data: sequences of one length, or shards of samples. Parent: `dataset`."""

    kind: Literal["packed"] = "packed"
    work: PackedWork


class ModelWork(Frozen):
    benchmark: str
    scale: str
    recipe: dict[str, JSON]
    seed: int


class ModelRecord(Record):
    """A trained checkpoint. Parent: `packed`."""

    kind: Literal["model"] = "model"
    work: ModelWork


class TaskRef(Frozen):
    """A task as it was run: its full definition's hash and its data's hash."""

    name: str
    definition: str
    data: str
    verified: bool
    identity: str = Field("", description="hash of the data's canonical rows; empty in old records")

    @model_serializer(mode="wrap")
    def _as_stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, JSON]:
        """Without what old records lack, so that their hashes stay what they are."""
        stored: dict[str, JSON] = handler(self)
        if not self.identity:
            del stored["identity"]
        return stored


class ScoresWork(Frozen):
    benchmark: str
    suite: str
    suite_version: str
    tasks: tuple[TaskRef, ...]
    parameters: dict[str, JSON] = Field(default_factory=dict)


class Score(Frozen):
    """A measured figure. `stderr` is the standard error over items; None where it has none."""

    metric: str
    value: float
    stderr: float | None = None
    num_items: int
    higher_is_better: bool


class TaskScore(Score):
    """The score of one task, with what is needed to read it."""

    task: str
    category: str | None = None
    random_baseline: float | None = None


class Control(Frozen):
    """A test of the test: the score of some questions, and of the same with something taken away.

    `drop` is score minus control, with a 95% interval over the questions; where the interval holds
    zero, the score does not use what was taken away.
    """

    task: str
    name: Literal[
        "context swapped",
        "options rotated",
        "images shuffled",
        "captions shuffled",
        "measurements swapped",
    ]
    num_items: int
    score: float
    control: float
    drop: float
    low: float
    high: float


class ScoresResults(Frozen):
    tasks: tuple[TaskScore, ...]
    aggregates: dict[str, Score]
    controls: tuple[Control, ...] = ()

    @model_serializer(mode="wrap")
    def _as_stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, JSON]:
        """Without what old records lack, so that their hashes stay what they are."""
        stored: dict[str, JSON] = handler(self)
        if not self.controls:
            del stored["controls"]
        return stored


class ScoresRecord(Record):
    """A model measured by a suite. Parent: `model`."""

    kind: Literal["scores"] = "scores"
    work: ScoresWork
    results: ScoresResults


class SubmissionWork(Frozen):
    benchmark: str
    benchmark_version: str
    scale: str
    track: str
    method: str
    team: str = ""
    url: str = ""
    tries: int | None = Field(None, description="datasets tried for this one; None: not said")

    @model_serializer(mode="wrap")
    def _as_stored(self, handler: SerializerFunctionWrapHandler) -> dict[str, JSON]:
        """Without what old records lack, so that their hashes stay what they are."""
        stored: dict[str, JSON] = handler(self)
        if self.tries is None:
            del stored["tries"]
        return stored


ChainRecord = Annotated[
    PoolRecord | AssetRecord | DatasetRecord | PackedRecord | ModelRecord | ScoresRecord,
    Field(discriminator="kind"),
]


class Submission(Record):
    """A claim on the board. Parents: `scores/<seed>` for each seed; `chain` holds every record."""

    kind: Literal["submission"] = "submission"
    work: SubmissionWork
    chain: tuple[ChainRecord, ...] = ()


AnyRecord = Annotated[
    PoolRecord
    | AssetRecord
    | DatasetRecord
    | PackedRecord
    | ModelRecord
    | ScoresRecord
    | Submission,
    Field(discriminator="kind"),
]
_ANY: TypeAdapter[Any] = TypeAdapter(AnyRecord)


def parse_record(data: bytes, *, source: str) -> Any:
    """Read a record and check its hashes.

    `source` (a path or URI) is named in the message of the RecordError that is raised for bytes
    that are not JSON, not a record, of an unknown kind, or that no longer fit their own hash.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RecordError(f"{source} is not JSON ({error}); make the record again") from None
    try:
        return _ANY.validate_python(value, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "record"
        raise RecordError(f"{source}: {where}: {first['msg']}") from None
