"""Modifiers that take something out of a text: citations, URLs, newlines, markup."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from pipelines import kernels
from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Modifier, Splitter
from pipelines.schema import EXTRA, ROW, STRING, TEXT
from pipelines.text import fields
from pipelines.text.patterns import read_list
from pipelines.text.rewriting import nulled, rewritten


class Rewrite(Modifier):
    """Writes the text anew. A document left without text goes, with the reason `emptied`."""

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def rewrite(self, text: str) -> str | None:
        """The new text; empty or None when nothing is left."""
        raise NotImplementedError

    def plain(self, text: str) -> str | None:
        """The whole rule on one text, said plainly; `modify` is equal to it."""
        return self.rewrite(text)

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        """Texts that `rewrite` may change; it is not called for others."""
        return np.ones(len(texts), dtype=bool)

    def rewritten(self, texts: pa.Array) -> pa.Array:
        """All texts written anew; the same array when that changes none."""
        return rewritten(texts, self.candidates(texts), lambda text: self.rewrite(text) or None)

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        texts = self.rewritten(batch.text)
        emptied = pc.equal(pc.binary_length(texts), 0).fill_null(True)
        return {TEXT: nulled(texts, emptied.to_numpy(zero_copy_only=False))}


_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")


class Citations(Rewrite, name="citations"):
    """Take out Wikipedia's marks: [1], [], [edit], [citation needed]. (Raffel et al. 2020, 2.2)"""

    reference: ClassVar[str | None] = "citation_removal_modifier"

    def rewritten(self, texts: pa.Array) -> pa.Array:
        return kernels.cuts.citations(texts)

    def rewrite(self, text: str) -> str:
        return _CITATION.sub("", text)


class Newlines(Rewrite, name="newlines"):
    """Cut runs of newlines to at most this many. Other white space is left alone."""

    max_newlines: int = Field(2, ge=0, description="newlines in a row, at most")
    reference: ClassVar[str | None] = "newline_removal_modifier"

    def rewritten(self, texts: pa.Array) -> pa.Array:
        return kernels.cuts.long_newlines(texts, most=self.max_newlines)

    def rewrite(self, text: str) -> str:
        most = "\n" * self.max_newlines
        return re.sub(f"\n{{{self.max_newlines + 1},}}", most, text)


_TAIL = r"[\w\-@:%+.~#?&/=()]*"
_OCTET = r"[12]?[0-9]?[0-9]"
_IPV4 = re.compile(rf"\s{{0,10}}(?:(?:https?|ftp)://)?\b(?:{_OCTET}\.){{3}}{_OCTET}{_TAIL}")


class Urls(Rewrite, name="remove_urls"):
    """Take out web addresses, with the white space before them. (Penedo et al. 2023, G.2)

    An address is an optional scheme, a host, a dot, a top-level domain in lower case, and what
    follows after `/`; `node.js`-like words with such an ending and mail domains are taken as well.
    IPv4 addresses are always taken out. With `only_if_text_starts_with_domain` (DCLM's mistake: an
    anchored test), names are taken out only of texts that begin with the letters of a top-level
    domain, in any case, as `The` begins with `th`.
    """

    domains: str = Field("iana_tlds.txt", description="asset: top-level domains, one a line")
    only_if_text_starts_with_domain: bool = Field(
        False, description="leave other texts' names alone, as DCLM does"
    )
    reference: ClassVar[str | None] = "url_removal_modifier"
    _url: Any = PrivateAttr(None)
    _dot: Any = PrivateAttr(None)
    _domains: Any = PrivateAttr(None)
    _start: Any = PrivateAttr(None)

    def assets(self) -> tuple[str, ...]:
        return (self.domains,)

    def load(self, assets: AssetFolder) -> None:
        names = read_list(assets.path(self.domains))
        names = tuple(name.strip() for name in names)
        self._domains = kernels.domains.prepare(names)
        known = _trie(list(names))
        self._start = re.compile(known, re.IGNORECASE)
        self._dot = re.compile(rf"\.(?:{known})\b")
        self._url = re.compile(
            rf"\s{{0,10}}(?:(?:https?|ftp)://)?[\w\-.@:%+~#=]{{1,256}}\.(?:{known})\b{_TAIL}"
        )

    def candidates(self, texts: pa.Array) -> npt.NDArray[np.bool_]:
        numbers = kernels.domains.hold_dotted_numbers(texts)
        return kernels.domains.may_hold_names(texts, self._domains) | numbers  # type: ignore[no-any-return]

    def plain(self, text: str) -> str:
        """The whole rule, said plainly; `rewrite` is equal to it."""
        if not self.only_if_text_starts_with_domain or self._start.match(text):
            text = self._url.sub("", text)
        return _IPV4.sub("", text)

    def rewrite(self, text: str) -> str:
        if not self.only_if_text_starts_with_domain or self._start.match(text):
            text = _sub_around(self._dot, self._url, text)
        return _sub_around(_DOTTED_DIGITS, _IPV4, text)


_DOTTED_DIGITS = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")


def _sub_around(hint: re.Pattern[str], pattern: re.Pattern[str], text: str) -> str:
    """`pattern` taken out of the words in which `hint` occurs, with the white space before them.

    Equal to pattern.sub("", text) where a match is white space, then a part of one word that has
    the hint in it: words are looked at one by one, and most are not looked at.
    """
    parts, last = [], 0
    for match in hint.finditer(text):
        begin = match.start()
        if begin < last:
            continue
        start, stop = begin, match.end()
        while start > last and not text[start - 1].isspace():
            start -= 1
        while start > last and text[start - 1].isspace():
            start -= 1
        while stop < len(text) and not text[stop].isspace():
            stop += 1
        parts.append(text[last:start])
        parts.append(pattern.sub("", text[start:stop]))
        last = stop
    return text if not parts else "".join([*parts, text[last:]])


def _trie(words: list[str]) -> str:
    """An expression for any of these words, the longest at each place, without alternatives that
    begin alike: the matcher takes one branch per letter."""
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _branch(root)


def _branch(node: dict[str, Any]) -> str:
    options = [re.escape(letter) + _branch(below) for letter, below in node.items() if letter]
    if not options:
        return ""
    joined = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return f"(?:{joined})?" if "" in node else joined


class SplitLines(Splitter, name="split_lines"):
    """Turn the text into a list of its lines, an entry `text` of `extra`; empty texts go.

    A text that is a list already stays. Between such a list and `join_lines` only steps that know
    lists can be; `exact_dedup` with `unit: line` needs neither.
    """

    delimiter: str = Field("\n", min_length=1, description="text between lines")
    reference: ClassVar[str | None] = "split_lines_modifier"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (TEXT,)

    def drops(self) -> tuple[str, ...]:
        return (TEXT,)

    def split(self, batch: Batch) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        values = fields.needed(batch, TEXT, why=self.name)
        wrong = [v for v in values if not isinstance(v, str | list)]
        if wrong:
            raise ValueError(f"the field 'text' is {type(wrong[0]).__name__}, expected a string")
        lists = [v.split(self.delimiter) if isinstance(v, str) and v else v for v in values]
        kept = np.flatnonzero(np.array([bool(v) for v in values], dtype=bool))
        parts = Batch(batch.table.take(pa.array(kept))).drop((TEXT, ROW))
        extra = fields.with_entries(parts, [{TEXT: lists[k]} for k in kept.tolist()])
        return parts.write({EXTRA: extra}).table, kept


class JoinLines(Modifier, name="join_lines"):
    """Turn a list of lines, as `split_lines` leaves it, into a text again; an empty list goes."""

    delimiter: str = Field("\n", description="what is put between lines")
    reference: ClassVar[str | None] = "join_lines_modifier"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (TEXT,)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING, EXTRA: STRING}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        values = fields.needed(batch, TEXT, why=self.name)
        wrong = [v for v in values if not isinstance(v, str | list)]
        if wrong:
            raise ValueError(f"the field 'text' is {type(wrong[0]).__name__}, expected a list")
        texts = [v if isinstance(v, str) else self.delimiter.join(v) or None for v in values]
        extra = fields.with_entries(batch, [{TEXT: fields.MISSING}] * batch.num_rows)
        return {TEXT: pa.array(texts, type=STRING), EXTRA: extra}


class MainHtml(Rewrite, name="html_paragraphs"):
    """Turn HTML into text: jusText's paragraphs (Pomikalek 2011), with empty lines between.

    As in DCLM no stop words are given, so boilerplate paragraphs are kept as well; a document that
    cannot be parsed, or has no paragraph, goes.
    """

    reference: ClassVar[str | None] = "html_content_extraction_modifier"

    def load(self, assets: AssetFolder) -> None:
        try:
            import justext  # noqa: F401
        except ImportError as error:
            raise ValueError(
                f"{self.name} needs a package: pip install jusText ({error})"
            ) from None

    def rewrite(self, text: str) -> str | None:
        from justext import core
        from lxml import etree

        try:  # what `justext.justext` does before it classifies paragraphs, which nobody asks here
            paragraphs = core.ParagraphMaker.make_paragraphs(
                core.preprocessor(core.html_to_dom(text.encode("utf-8")))
            )
        except (etree.ParserError, etree.XMLSyntaxError):
            return None
        return "\n\n".join(paragraph.text for paragraph in paragraphs)
