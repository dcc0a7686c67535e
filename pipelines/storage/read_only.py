"""Places that can only be read: files behind HTTP(S), and datasets of the Hugging Face hub.

`https://host/path` cannot be listed, so its files must be named by a list. `hf://datasets/owner/name`
(with an optional `@revision`, and a path below it) is listed by the hub. Both are read by ranges,
and asked again with growing pauses when a server does not answer.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol, TypeVar, cast
from urllib.parse import quote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pipelines.ending import lent
from pipelines.retries import HTTP, HTTP_CLIENTS, HUB, hub_may_pass, passes, patiently
from pipelines.storage.base import Entry, StorageError, Writer

READ_BYTES = 8 << 20  # of one request for a part
STREAM_BYTES = 1 << 20  # taken at once from a long answer
T = TypeVar("T")


class _Status(Exception):
    """An answer that is not the file."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answers {status} {reason}")
        self.status = status


class _BrokenOff(Exception):
    """An answer that ended before all of it was read."""


def _may_pass(error: Exception) -> bool:
    return isinstance(error, HTTPError) or (isinstance(error, _Status) and passes(error.status))


class _ReadOnly:
    """The half of a Store that writes: refused."""

    uri: str

    def _refuse(self) -> NoReturn:
        raise StorageError(f"{self.uri} can only be read; write to a folder or to s3://")

    def create(self, name: str) -> Writer:
        self._refuse()

    def put_if_absent(self, name: str, data: bytes) -> bool:
        self._refuse()

    def remove(self, name: str) -> None:
        self._refuse()

    def move(self, name: str, new: str) -> None:
        self._refuse()

    def unfinished(self) -> Iterator[Entry]:
        return iter(())

    def discard_unfinished(self) -> None:
        self._refuse()

    def local_path(self, name: str) -> Path | None:
        return None


class HttpStore(_ReadOnly):
    """Files below an `http://` or `https://` address. No account, no listing."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")

    def _url(self, name: str) -> str:
        return f"{self.uri}/{quote(name)}"

    def _ask(self, method: str, name: str, **headers: str) -> tuple[dict[str, str], bytes]:
        """Headers and body."""
        answer = self._answer(method, name, headers)
        return {key.lower(): value for key, value in answer.headers.items()}, answer.data

    def _answer(self, method: str, name: str, headers: dict[str, str], *, body: bool = True) -> Any:
        """An answer of 200 or 206, its body read unless `body` is not set.

        FileNotFoundError for 404, StorageError for what does not pass.
        """
        url = self._url(name)

        def request() -> Any:
            answer = _connections().request(method, url, headers=headers, preload_content=body)
            if answer.status in (200, 206):
                return answer
            answer.close()
            if answer.status == 404:
                raise FileNotFoundError(f"there is no file {url}")
            raise _Status(answer.status, answer.reason)

        try:
            return patiently(request, what=url, may_pass=_may_pass, patience=lambda: HTTP)
        except (HTTPError, _Status) as error:
            raise StorageError(
                f"cannot read {url}: {error}; run the same command again to resume"
            ) from None

    def read_bytes(self, name: str) -> bytes:
        return self._ask("GET", name)[1]

    def open(self, name: str) -> BinaryIO:
        headers, _ = self._ask("HEAD", name)
        if "content-length" not in headers:
            raise StorageError(f"{self._url(name)}: the server does not say how long the file is")
        etag = headers.get("etag", "")
        match = {"If-Match": etag} if etag.startswith('"') else {}  # the file must not change

        def fetch(start: int, stop: int) -> bytes:
            _, data = self._ask("GET", name, Range=f"bytes={start}-{stop - 1}", **match)
            if len(data) != stop - start:  # a server without ranges sends everything
                data = data[start:stop]
            return data

        def stream(start: int) -> Body:
            answer = self._answer("GET", name, {"Range": f"bytes={start}-", **match}, body=False)
            skipped = start if answer.status == 200 else 0  # a server without ranges
            while skipped > 0 and (data := answer.read(min(skipped, STREAM_BYTES))):
                skipped -= len(data)
            return cast("Body", answer)

        ranges = Ranges(
            int(headers["content-length"]), fetch=fetch, stream=stream, passing=(HTTPError,)
        )
        return lent(cast("BinaryIO", io.BufferedReader(ranges, READ_BYTES)))

    def entry(self, name: str) -> Entry:
        """Name and size of one file."""
        headers, _ = self._ask("HEAD", name)
        return Entry(name=name, num_bytes=int(headers.get("content-length", 0)))

    def etag(self, name: str) -> str | None:
        """What the server says identifies the bytes: for S3's small objects their md5."""
        return self._ask("HEAD", name)[0].get("etag", "").strip('"') or None

    def stamp(self, name: str) -> str:
        headers, _ = self._ask("HEAD", name)
        marks = (headers.get(key, "") for key in ("content-length", "etag", "last-modified"))
        return "-".join(marks)

    def exists(self, name: str) -> bool:
        try:
            self._ask("HEAD", name)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[Entry]:
        raise StorageError(
            f"{self.uri} cannot be listed: name its files (--files LIST), or copy it"
        )


_pool: Any = None


def _connections() -> Any:
    global _pool
    if _pool is None:
        timeout = urllib3.Timeout(connect=10, read=60)
        _pool = urllib3.PoolManager(maxsize=32, retries=False, timeout=timeout)
    return _pool


class Body(Protocol):
    """The answer to a request, read from its begin."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Ranges(io.RawIOBase):
    """A seekable file of known size behind requests.

    Reading from front to back takes one long answer, `stream(start)`, taken up again where it
    breaks off (an error of `passing`, or an early end). A read elsewhere fetches just its part by
    `fetch(start, stop)`.
    """

    def __init__(
        self,
        size: int,
        *,
        fetch: Callable[[int, int], bytes],
        stream: Callable[[int], Body],
        passing: tuple[type[Exception], ...],
    ) -> None:
        super().__init__()
        self._size, self._fetch, self._stream = size, fetch, stream
        self._passing = passing
        self._position = 0
        self._last_stop = 0
        self._body: Body | None = None
        self._body_at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._position, min(self._position + len(view), self._size)
        if stop <= start:
            return 0
        if start == self._last_stop:
            data = self._read_on(start, min(stop - start, STREAM_BYTES))
        else:
            data = self._fetch(start, stop)
        view[: len(data)] = data
        self._position = self._last_stop = start + len(data)
        return len(data)

    def _read_on(self, start: int, size: int) -> bytes:
        """At least one byte from `start` on."""
        broken: tuple[type[Exception], ...] = (_BrokenOff, *self._passing)

        def read() -> bytes:
            if self._body is None or self._body_at != start:
                self._drop()
                self._body, self._body_at = self._stream(start), start
            try:
                data = self._body.read(size)
            except self._passing:
                self._drop()
                raise
            if not data:
                self._drop()
                raise _BrokenOff("the answer ends early")
            self._body_at += len(data)
            return data

        def may_pass(error: Exception) -> bool:
            return isinstance(error, broken)

        try:
            return patiently(read, what=f"byte {start}", may_pass=may_pass, patience=lambda: HTTP)
        except broken as error:
            raise StorageError(
                f"an answer broke off {HTTP.tries} times at byte {start}: {error}"
            ) from None

    def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None

    def close(self) -> None:
        self._drop()
        super().close()


class HfStore(_ReadOnly):
    """Files of the Hugging Face hub: `hf://datasets/owner/name[@revision][/path]`; of a model,
    `hf://owner/name[@revision][/path]`.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        path = f"{parts.netloc}{parts.path}".strip("/")
        owner_at = 1 if path.startswith("datasets/") else 0
        if parts.scheme != "hf" or path.count("/") < 1 + owner_at:
            raise ValueError(
                f"{uri!r}: expected hf://datasets/owner/name[@revision][/path], or of a model "
                "hf://owner/name[@revision][/path]"
            )
        self.path = path
        self.uri = f"hf://{path}"

    @property
    def _hub(self) -> Any:
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT"))  # as it is now, not at import

    def _said(self, name: str, request: Callable[[], T]) -> T:
        what = f"{self.uri}/{name}"
        try:
            return patiently(request, what=what, may_pass=hub_may_pass, patience=lambda: HUB)
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no file {self.uri}/{name}") from None
        except Exception as error:  # the client's own, of several libraries
            theirs = ("huggingface_hub", "fsspec", *HTTP_CLIENTS)
            if type(error).__module__.split(".")[0] not in theirs:
                raise
            raise StorageError(
                f"cannot read {self.uri}/{name}: {error}; is the name right, and HF_TOKEN set if "
                "it is gated?"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        full = f"{self.path}/{name}"
        opened = self._said(name, lambda: self._hub.open(full, "rb", block_size=READ_BYTES))
        # The hub's own file does not read lines of a bounded length.
        return lent(cast("BinaryIO", io.BufferedReader(opened, READ_BYTES)))

    def stamp(self, name: str) -> str:
        path = f"{self.path}/{name}"
        return _stamp_of(self._said(name, lambda: self._hub.info(path, refresh=True)))

    def exists(self, name: str) -> bool:
        return bool(self._said(name, lambda: self._hub.exists(f"{self.path}/{name}")))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        infos = self._said(prefix, lambda: self._hub.find(self.path, detail=True, refresh=True))
        cut = len(self._hub.resolve_path(self.path).unresolve()) + 1
        entries = [
            Entry(name=full[cut:], num_bytes=int(info["size"] or 0), stamp=_stamp_of(info))
            for full, info in infos.items()
        ]
        yield from sorted(
            (entry for entry in entries if entry.name.startswith(prefix)), key=lambda e: e.name
        )

    def sha256(self, name: str, *, fresh: bool = False) -> str | None:
        """The checksum that the hub keeps for large files; saves reading them for a pool's id.

        `fresh` asks again; without it the last listing is good enough.
        """
        path = f"{self.path}/{name}"
        info = self._said(name, lambda: self._hub.info(path, refresh=fresh))
        lfs = info.get("lfs")
        return None if lfs is None else str(lfs["sha256"])


def _stamp_of(info: Any) -> str:
    """The hub's name of the bytes: Git's, or for large files their checksum."""
    lfs = info.get("lfs")
    return f"{info.get('size')}-{info.get('blob_id') if lfs is None else lfs['sha256']}"
