"""A bucket prefix as a Store: ranged reads, streamed multipart uploads, conditional puts.

Credentials, region and endpoint come from the usual AWS places (environment, profile, instance);
`--endpoint-url` of a command sets `AWS_ENDPOINT_URL` for the process and its workers. Every request
is retried with back-off by the client.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipelines.storage import Entry, StorageError, Writer

PART_BYTES = 16 << 20  # of a multipart upload; 10,000 parts allow objects of 160 GB
READ_BYTES = 4 << 20  # fetched by one ranged read, at least
ATTEMPTS = 10
MISSING = ("404", "NoSuchKey", "NotFound")
CONFLICT_WAIT_SECONDS = 0.2


@lru_cache(maxsize=4)
def _client(process: int, endpoint: str | None) -> Any:
    """One client per process (clients do not survive a fork) and endpoint."""
    import boto3

    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
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
        try:
            return getattr(self.client, what)(Bucket=self.bucket, **arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in MISSING:
                raise FileNotFoundError(f"there is no object {self.uri}/{name}") from None
            raise StorageError(f"{what} of {self.uri}/{name} failed: {error}") from error
        except BotoCoreError as error:
            raise StorageError(
                f"{what} of {self.uri}/{name} failed: {error}; check credentials, region and "
                "--endpoint-url, then run the same command again: finished work is kept"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        answer = self._call("get_object", name, Key=self._key(name))
        return cast("bytes", answer["Body"].read())

    def open(self, name: str) -> BinaryIO:
        size = int(self._call("head_object", name, Key=self._key(name))["ContentLength"])
        return cast("BinaryIO", io.BufferedReader(_Ranges(self, name, size), READ_BYTES))

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
                yield Entry(name=item["Key"][cut:], num_bytes=item["Size"])
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
        for _ in range(ATTEMPTS):
            try:
                self.client.put_object(Bucket=self.bucket, Key=key, Body=data, IfNoneMatch="*")
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
            except BotoCoreError as error:
                raise StorageError(f"put of {self.uri}/{name} failed: {error}") from error
        raise StorageError(f"put of {self.uri}/{name} met another put {ATTEMPTS} times; try again")

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
        for upload in self._uploads():
            self._call(
                "abort_multipart_upload",
                upload["Key"],
                Key=upload["Key"],
                UploadId=upload["UploadId"],
            )

    def _uploads(self) -> Sequence[Any]:
        prefix = f"{self.prefix}/" if self.prefix else ""
        page = self._call("list_multipart_uploads", "", Prefix=prefix)
        return tuple(page.get("Uploads") or ())

    def local_path(self, name: str) -> Path | None:
        return None


class _Ranges(io.RawIOBase):
    """A seekable reader of one object; each read is one ranged request."""

    def __init__(self, store: S3Store, name: str, size: int) -> None:
        self.store, self.object_name, self.size = store, name, size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = max(0, base + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self.position + len(view), self.size)
        if stop <= self.position:
            return 0
        answer = self.store._call(
            "get_object",
            self.object_name,
            Key=self.store._key(self.object_name),
            Range=f"bytes={self.position}-{stop - 1}",
        )
        data = answer["Body"].read()
        view[: len(data)] = data
        self.position += len(data)
        return len(data)


class _UploadSink:
    """Bytes to one object: a single put when small, a multipart upload when large."""

    def __init__(self, store: S3Store, name: str) -> None:
        self.store, self.name = store, name
        self.buffer = bytearray()
        self.upload: str | None = None
        self.parts: list[dict[str, Any]] = []

    def write(self, data: bytes | memoryview) -> None:
        self.buffer += data
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
        self.store._call(
            "complete_multipart_upload",
            self.name,
            Key=key,
            UploadId=self.upload,
            MultipartUpload={"Parts": self.parts},
        )

    def abandon(self) -> None:
        self.buffer.clear()
        if self.upload is not None:
            self.store._call(
                "abort_multipart_upload",
                self.name,
                Key=self.store._key(self.name),
                UploadId=self.upload,
            )
