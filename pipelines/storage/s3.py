"""A bucket prefix as a Store: ranged reads, streamed multipart uploads, conditional puts.

Credentials, region and endpoint come from the usual AWS places (environment, profile, instance);
`--endpoint-url` of a command sets `AWS_ENDPOINT_URL` for the process and its workers. A server that
does not answer, answers with 5xx or breaks off an answer is asked again with growing pauses, for
minutes once it has answered before: a run outlives a restart of its storage.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as EndpointError
from urllib3.exceptions import ProtocolError

from pipelines.ending import lent
from pipelines.retries import BUCKET, NEW_BUCKET, Patience, passes, patiently
from pipelines.storage.base import Entry, StorageError, Writer
from pipelines.storage.read_only import Body, Ranges

PART_BYTES = 16 << 20  # of a multipart upload; 10,000 parts allow objects of 160 GB
READ_BYTES = 8 << 20  # fetched by one ranged read, at least
CONFLICTS = 10  # puts that meet another put of the name
MISSING = ("404", "NoSuchKey", "NotFound")
CHANGED = ("412", "PreconditionFailed")
CONFLICT_WAIT_SECONDS = 0.2  # the other put is of a small file, and nearly done
PASSING = (
    HTTPClientError,
    EndpointError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
    ProtocolError,
)
"""Errors of a connection, which may pass by the next try."""
PASSING_CODES = ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "InternalError")

T = TypeVar("T")
_answered: set[str | None] = set()  # endpoints that answered this process


def _patiently(request: Callable[[], T], *, what: str) -> T:
    """The answer of a request; sent again while the fault may pass."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")

    def patience() -> Patience:
        return BUCKET if endpoint in _answered else NEW_BUCKET

    answer = patiently(request, what=what, may_pass=_may_pass, patience=patience)
    _answered.add(endpoint)
    return answer


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0
        code = error.response.get("Error", {}).get("Code", "")
        return passes(status) or code in PASSING_CODES
    return isinstance(error, PASSING)


@lru_cache(maxsize=4)
def _client(process: int, endpoint: str | None) -> Any:
    """One client per process (clients do not survive a fork) and endpoint."""
    import boto3

    config = Config(
        retries={"mode": "standard", "total_max_attempts": 2},  # the rest is done by _patiently
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.client("s3", endpoint_url=endpoint, config=config)


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.uri = f"s3://{bucket}/{self.prefix}".rstrip("/")

    @classmethod
    def from_uri(cls, uri: str) -> S3Store:
        """The store of an `s3://bucket/prefix` URI. ValueError when it names no bucket."""
        parts = urlsplit(uri)
        if not parts.netloc:
            raise ValueError(f"{uri!r} names no bucket; expected s3://bucket/prefix")
        return cls(parts.netloc, parts.path)

    @property
    def client(self) -> Any:
        return _client(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))

    def _key(self, name: str) -> str:
        if ".." in name.split("/") or name.startswith("/"):
            raise StorageError(f"the name {name!r} leaves {self.uri}")
        return f"{self.prefix}/{name}" if self.prefix else name

    def _call(self, what: str, name: str, **arguments: Any) -> Any:
        """One request; an error names the object, the cause and what to do."""
        return self._ask(
            what, name, lambda: getattr(self.client, what)(Bucket=self.bucket, **arguments)
        )

    def _get(self, name: str, **arguments: Any) -> bytes:
        """The body of a get, all of it."""

        def get() -> bytes:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name), **arguments)
            return cast("bytes", answer["Body"].read())

        return self._ask("get_object", name, get)

    def _ask(self, what: str, name: str, request: Callable[[], T]) -> T:
        try:
            return _patiently(request, what=f"{what} of {self.uri}/{name}")
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in MISSING:
                raise FileNotFoundError(f"there is no object {self.uri}/{name}") from None
            if what == "get_object" and code in CHANGED:
                raise StorageError(
                    f"{self.uri}/{name} was changed while it was being read: run the same command "
                    "again when nobody writes there any more"
                ) from None
            raise StorageError(f"{what} of {self.uri}/{name} failed: {error}") from error
        except (BotoCoreError, *PASSING) as error:
            raise StorageError(
                f"{what} of {self.uri}/{name} failed: {error}; check credentials, region and "
                "--endpoint-url, then run the same command again: finished work is kept"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        return self._get(name)

    def open(self, name: str) -> BinaryIO:
        head = self._call("head_object", name, Key=self._key(name))
        size = int(head["ContentLength"])
        match = {"IfMatch": head["ETag"]} if head.get("ETag") else {}  # it must not change

        def fetch(start: int, stop: int) -> bytes:
            return self._get(name, Range=f"bytes={start}-{stop - 1}", **match)

        def stream(start: int) -> Body:
            answer = self._call(
                "get_object", name, Key=self._key(name), Range=f"bytes={start}-{size - 1}", **match
            )
            return cast("Body", answer["Body"])

        ranges = Ranges(size, fetch=fetch, stream=stream, passing=PASSING)
        return lent(cast("BinaryIO", io.BufferedReader(ranges, READ_BYTES)))

    def etag(self, name: str) -> str | None:
        """The server's mark of the bytes: their md5, unless they were uploaded in parts."""
        answer = self._call("head_object", name, Key=self._key(name))
        return str(answer.get("ETag", "")).strip('"') or None

    def stamp(self, name: str) -> str:
        answer = self._call("head_object", name, Key=self._key(name))
        return _stamp(answer["ContentLength"], answer.get("ETag", ""))

    def exists(self, name: str) -> bool:
        try:
            self._call("head_object", name, Key=self._key(name))
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        start = self._key(prefix) if prefix else (f"{self.prefix}/" if self.prefix else "")
        cut = len(self.prefix) + 1 if self.prefix else 0
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", prefix, Prefix=start, **token)
            for item in page.get("Contents", ()):
                yield Entry(
                    name=item["Key"][cut:],
                    num_bytes=item["Size"],
                    stamp=_stamp(item["Size"], item.get("ETag", "")),
                    changed=item["LastModified"].timestamp(),
                )
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def create(self, name: str) -> Writer:
        return Writer(name, _UploadSink(self, name))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Put unless the name exists (If-None-Match).

        A put whose answer was lost is retried by the client and then refused; it has won all the
        same, which the stored bytes show.
        """
        key = self._key(name)

        def put() -> Any:
            return self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")

        for _ in range(CONFLICTS):
            try:
                _patiently(put, what=f"put of {self.uri}/{name}")
                return True
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if code == "ConditionalRequestConflict" or status == 409:
                    time.sleep(CONFLICT_WAIT_SECONDS)  # another put is under way: ask again
                    continue
                if code == "PreconditionFailed" or status == 412:
                    return self.read_bytes(name) == data
                raise StorageError(f"put of {self.uri}/{name} failed: {error}") from error
            except (BotoCoreError, *PASSING) as error:
                raise StorageError(f"put of {self.uri}/{name} failed: {error}") from error
        raise StorageError(f"put of {self.uri}/{name} met another put {CONFLICTS} times; try again")

    def remove(self, name: str) -> None:
        self._call("delete_object", name, Key=self._key(name))

    def move(self, name: str, new: str) -> None:
        if not self.exists(name):
            if not self.exists(new):
                raise FileNotFoundError(f"there is no object {self.uri}/{name}")
            return
        source = {"Bucket": self.bucket, "Key": self._key(name)}
        self._call("copy_object", new, Key=self._key(new), CopySource=source)
        self.remove(name)

    def unfinished(self) -> Iterator[Entry]:
        for upload in self._uploads():
            cut = len(self.prefix) + 1 if self.prefix else 0
            yield Entry(name=upload["Key"][cut:], num_bytes=0)

    def discard_unfinished(self) -> None:
        for upload in list(self._uploads()):
            self._call(
                "abort_multipart_upload",
                upload["Key"],
                Key=upload["Key"],
                UploadId=upload["UploadId"],
            )

    def _uploads(self) -> Iterator[Any]:
        prefix = f"{self.prefix}/" if self.prefix else ""
        after: dict[str, str] = {}
        while True:
            page = self._call("list_multipart_uploads", "", Prefix=prefix, **after)
            yield from page.get("Uploads") or ()
            if not page.get("IsTruncated"):
                return
            after = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page.get("NextUploadIdMarker", ""),
            }

    def local_path(self, name: str) -> Path | None:
        return None


def _stamp(size: int, etag: str) -> str:
    return f"{size}-{etag.strip(chr(34))}"


class _UploadSink:
    """Bytes to one object: a single put when small, a multipart upload when large."""

    def __init__(self, store: S3Store, name: str) -> None:
        self.store, self.name = store, name
        self.buffer = bytearray()
        self.upload: str | None = None
        self.parts: list[dict[str, Any]] = []
        self.num_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        self.buffer += data
        self.num_bytes += len(data)
        while len(self.buffer) >= PART_BYTES:
            self._part(bytes(self.buffer[:PART_BYTES]))
            del self.buffer[:PART_BYTES]

    def _part(self, data: bytes) -> None:
        key = self.store._key(self.name)
        if self.upload is None:
            started = self.store._call("create_multipart_upload", self.name, Key=key)
            self.upload = started["UploadId"]
        number = len(self.parts) + 1
        answer = self.store._call(
            "upload_part",
            self.name,
            Key=key,
            UploadId=self.upload,
            PartNumber=number,
            Body=data,
        )
        self.parts.append({"ETag": answer["ETag"], "PartNumber": number})

    def finish(self) -> None:
        key = self.store._key(self.name)
        if self.upload is None:
            self.store._call("put_object", self.name, Key=key, Body=bytes(self.buffer))
            return
        if self.buffer:
            self._part(bytes(self.buffer))
        try:
            self.store._call(
                "complete_multipart_upload",
                self.name,
                Key=key,
                UploadId=self.upload,
                MultipartUpload={"Parts": self.parts},
            )
        except StorageError as error:
            if not (_no_upload(error) and self._is_there()):
                raise  # else it was completed, and only the answer was lost

    def _is_there(self) -> bool:
        """Whether the object exists under this name with this size. Names are of one attempt."""
        head = self.store._call("head_object", self.name, Key=self.store._key(self.name))
        return int(head["ContentLength"]) == self.num_bytes

    def abandon(self) -> None:
        self.buffer.clear()
        if self.upload is None:
            return
        try:
            self.store._call(
                "abort_multipart_upload",
                self.name,
                Key=self.store._key(self.name),
                UploadId=self.upload,
            )
        except StorageError as error:
            if not _no_upload(error):
                raise


def _no_upload(error: StorageError) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] == "NoSuchUpload"
