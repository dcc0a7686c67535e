"""Bodies that a server compressed unasked: undone within limits, or refused."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
import zstandard

from pipelines.images.content_encoding import TooLarge, undo

BODY = random.Random(0).randbytes(5_000)
MOST = 1 << 20


def test_members_follow_each_other_and_what_is_behind_the_last_is_left() -> None:
    for compress, encoding in ((gzip.compress, "gzip"), (zstandard.compress, "zstd")):
        body = compress(BODY) + compress(BODY)
        assert undo(body + b"behind", encoding, max_bytes=MOST) == BODY + BODY


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (gzip.compress(BODY, mtime=0)[:-9], "gzip"),
        (zlib.compress(BODY)[:-9], "deflate"),
        (zstandard.compress(BODY)[:-9], "zstd"),
    ],
)
def test_a_body_that_breaks_off_is_no_body(data: bytes, encoding: str) -> None:
    with pytest.raises(ValueError, match="the stream breaks off"):
        undo(data, encoding, max_bytes=MOST)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_empty_members_without_end_are_not_followed(encoding: str) -> None:
    """Each costs time and gives nothing, so a limit of bytes does not stop them."""
    empty = gzip.compress(b"", mtime=0) if encoding == "gzip" else zstandard.compress(b"")
    with pytest.raises(ValueError, match="more than 10000 members"):
        undo(empty * 20_000, encoding, max_bytes=MOST)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_stops_at_the_limit(encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zstandard.compress
    for data in (compress(bytes(MOST + 1)), compress(bytes(MOST // 4)) * 5):
        with pytest.raises(TooLarge):
            undo(data, encoding, max_bytes=MOST)
    assert len(undo(compress(bytes(MOST)), encoding, max_bytes=MOST)) == MOST
