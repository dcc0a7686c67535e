"""Turn the files of a source into web pages, or into rows of clean prose.

Pages keep the bytes that their authors published, in whatever encoding. Mails become what a mail
archive on the web shows: a mail with HTML gives that HTML, any other a small page around its text;
of the mail's headers only the subject stays.
"""

import email
import html
import re
from collections.abc import Iterable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from typing import NamedTuple

from dclm.pool.tiny_sources import Source
from pipelines.formats.warc import ExtractOptions, RejectedError, html_to_text, page

NGRAM_WORDS = 13  # the n-gram length of GPT-3's overlap study (Brown et al. 2020, appendix C)


class Page(NamedTuple):
    """A web page as a server would send it."""

    url: str
    content_type: str
    body: bytes

    def block(self) -> bytes:
        """The HTTP response."""
        head = (
            "HTTP/1.1 200 OK\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode("ascii") + self.body

    def text(self) -> str:
        """The page's main text, as the pool's reader will see it; "" where it will see none."""
        options = ExtractOptions(encoding="detect")
        try:
            return html_to_text(page(self.block(), options=options), options=options)
        except RejectedError:
            return ""


class Row(NamedTuple):
    """A piece of prose with the name it goes by."""

    id: str
    text: str


def pages(files: Iterable[tuple[str, bytes]], *, source: Source) -> Iterator[Page]:
    """The web pages of a pool source, in the order of `files`."""
    for path, data in files:
        if source.content == "mail":
            url = source.url + path.rpartition(".")[0] + ".html"
            yield _mail_page(data, url=url)
        else:
            yield Page(source.url + path, _content_type(data), data)


def rows(files: Iterable[tuple[str, bytes]], *, source: Source) -> Iterator[Row]:
    """The prose rows of a held-out or positives source, in the order of `files`.

    A page's paragraphs of running text are joined by newlines into rows of at most
    `max_characters`; pages that hold less than 200 characters of it give no row.
    """
    for path, data in files:
        if source.content == "text":
            text = data.decode("utf-8", errors="strict")
            paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        else:
            text = Page(source.url + path, _content_type(data), data).text()
            paragraphs = [" ".join(part.split()) for part in text.split("\n")]
        prose = [part for part in paragraphs if _is_prose(part)]
        pieces = _pieces(prose, max_characters=source.max_characters)
        for index, piece in enumerate(pieces[: source.max_rows_per_page]):
            yield Row(f"{source.name}/{path}#{index}", piece)


def ngrams(text: str, *, stride: int) -> set[str]:
    """Every `stride`-th 13-gram of lower-case words in a text."""
    words = re.findall(r"\w+", text.lower())
    last = len(words) - NGRAM_WORDS
    return {" ".join(words[i : i + NGRAM_WORDS]) for i in range(0, last + 1, stride)}


def shares_text(text: str, *, protected: set[str]) -> bool:
    """Does a text repeat something protected (13-grams at stride 1)?

    Looks at every 13th 13-gram, so a shared run of 25 words or more is always found.
    """
    return not protected.isdisjoint(ngrams(text, stride=NGRAM_WORDS))


def _is_prose(paragraph: str) -> bool:
    """Running text: at least 8 words and an end of sentence where one belongs."""
    return paragraph.count(" ") >= 7 and paragraph.rstrip("\"')]”’")[-1:] in (".", "!", "?", ":")


def _pieces(paragraphs: list[str], *, max_characters: int) -> list[str]:
    """Fill rows of at most `max_characters` with whole paragraphs, or else whole sentences."""
    parts: list[tuple[str, str]] = []  # what joins a part to the one before, and the part
    for paragraph in paragraphs:
        if len(paragraph) <= max_characters:
            parts.append(("\n", paragraph))
            continue
        joint = "\n"
        for sentence in re.split(r"(?<=[.!?]) +(?=[\"'(A-Z\[])", paragraph):
            if len(sentence) <= max_characters:
                parts.append((joint, sentence))
                joint = " "
    result, current = [], ""
    for joint, part in parts:
        if current and len(current) + 1 + len(part) > max_characters:
            result.append(current)
            current = ""
        current = current + joint + part if current else part
    result.append(current)
    return [piece for piece in result if len(piece) >= 200]


def _content_type(data: bytes) -> str:
    """What a server that knows its files would say; a page in another encoding declares its own."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "text/html"
    return "text/html; charset=utf-8"


def _mail_page(data: bytes, *, url: str) -> Page:
    message = email.message_from_bytes(data)
    parts = [part for part in message.walk() if not part.is_multipart()]
    for part in parts:
        if part.get_content_type() == "text/html":
            charset = _charset(part)
            suffix = f"; charset={charset}" if charset else ""
            return Page(url, f"text/html{suffix}", _payload(part))
    plain = [part for part in parts if part.get_content_type() == "text/plain"]
    text = _decoded(plain[0]) if plain else ""
    subject = html.escape(_subject(message))
    body = (
        f"<!DOCTYPE html>\n<html>\n<head><title>{subject}</title></head>\n<body>\n"
        f"<h1>{subject}</h1>\n<pre>{html.escape(text, quote=False)}</pre>\n</body>\n</html>\n"
    )
    return Page(url, "text/html; charset=utf-8", body.encode("utf-8"))


def _payload(part: Message) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _charset(part: Message) -> str | None:
    """The charset a mail declares, if it is a charset's name at all; many in spam are not."""
    charset = part.get_param("charset")
    if isinstance(charset, str) and re.fullmatch(r"[A-Za-z0-9][\w.:-]*", charset, re.ASCII):
        return charset.lower()
    return None


def _decoded(part: Message) -> str:
    payload = _payload(part)
    try:
        text = payload.decode(_charset(part) or "utf-8")
    except (LookupError, UnicodeDecodeError):
        text = payload.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\0", "")


def _subject(message: Message) -> str:
    raw = str(message.get("Subject", ""))
    try:
        subject = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, UnicodeError):
        subject = raw
    # Bytes outside ASCII in a header arrive as surrogates, which no encoding can write.
    return " ".join(subject.encode("utf-8", errors="replace").decode("utf-8").split())
