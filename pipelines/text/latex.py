"""Modifiers for LaTeX sources, as RedPajama-v1 prepared arXiv (Together 2023).

The published rules are expressions that look for a closing brace up to the line's end from every
place where a command begins: a line of a megabyte of such commands takes hours. Here an expression
finds the command, and the end is looked up once a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from pipelines.text.rewrites import Rewrite


class _Line:
    """The line around a position of a text, for positions that come in order."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.end = -1
        self.last_brace = -1  # of the line; -1 where it has no closing brace
        self.last_pair = -1  # the last `]{` with a closing brace behind it

    def move(self, position: int) -> None:
        """Go to the line that holds `position`."""
        if position <= self.end:
            return
        start = self._text.rfind("\n", 0, position) + 1
        end = self._text.find("\n", position)
        self.end = len(self._text) if end < 0 else end
        self.last_brace = self._text.rfind("}", start, self.end)
        self.last_pair = self._text.rfind("]{", start, max(start, self.last_brace))


_APPENDIX = re.compile(r"\\appendix|\\begin\{(?:references|REFERENCES|thebibliography)\}")
_BIBLIOGRAPHY = re.compile(r"\\bibliography\{")


def _appendix(text: str) -> int | None:
    """Where the first appendix, list of references or closed bibliography command begins."""
    match = _APPENDIX.search(text)
    first = len(text) if match is None else match.start()
    line = _Line(text)
    for command in _BIBLIOGRAPHY.finditer(text, 0, first):
        line.move(command.end())
        if line.last_brace >= command.end():
            return command.start()
    return None if match is None else first


class LatexAppendix(Rewrite, name="latex_appendix"):
    """Cut everything from the first appendix or bibliography on."""

    reference: ClassVar[str | None] = "arxiv_appendix_modifier"

    def rewrite(self, text: str) -> str:
        return text[: _appendix(text)]


_COMMENT_LINE = re.compile(r"(?m)^%.*\n?")
_COMMENT_TAIL = re.compile(r"[^\\]%.+$", re.MULTILINE)
_COMMENT_TAIL_RIGHT = re.compile(r"(?<!\\)%.*$", re.MULTILINE)
_COMMENT_BEGIN, _COMMENT_END = r"\begin{comment}", r"\end{comment}"


def _without_environments(text: str) -> str:
    """A text without what lies between the marks of comment environments, and the marks."""
    parts, position = [], 0
    while (begin := text.find(_COMMENT_BEGIN, position)) >= 0:
        end = text.find(_COMMENT_END, begin + len(_COMMENT_BEGIN))
        if end < 0:  # nor is there one behind any later beginning
            break
        parts.append(text[position:begin])
        position = end + len(_COMMENT_END)
    return "".join((*parts, text[position:]))


class LatexComments(Rewrite, name="latex_comments"):
    """Take out comments: lines that start with %, the tails behind %, and comment environments."""

    environments: bool = Field(False, description="take out comment environments as well")
    eat_character_before: bool = Field(
        False, description="take out the character before a tail's % too, as DCLM does"
    )
    reference: ClassVar[str | None] = "arxiv_comment_modifier"

    def rewrite(self, text: str) -> str:
        text = _COMMENT_LINE.sub("", text)
        text = (_COMMENT_TAIL if self.eat_character_before else _COMMENT_TAIL_RIGHT).sub("", text)
        return _without_environments(text) if self.environments else text


_NEWCOMMAND = re.compile(r"\\newcommand\*?\{(\\[a-zA-Z0-9]+?)\}\{")
_DEF = re.compile(r"\\def\s*(\\[a-zA-Z0-9]+?)\s*\{")
MAX_GROWTH = 10
"""Macros made of macros double a text with each of them; papers grow by tenths."""
MAX_WORK = 1_000_000_000
"""Characters looked through for one document: a thousand macros in a megabyte."""


def _definitions(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """Name and value of the definitions whose line ends with their closing brace."""
    line, position = _Line(text), 0
    for match in pattern.finditer(text):
        start = match.end()
        if match.start() < position:
            continue  # inside the value of the one before
        line.move(start)
        if line.end - 1 >= start and text[line.end - 1] == "}":
            yield match[1], text[start : line.end - 1]
            position = line.end


class LatexMacros(Rewrite, name="latex_macros"):
    """Expand macros without arguments that are defined on one line (newcommand and def).

    A macro is expanded where no letter or digit follows; the definitions are rewritten as well. A
    macro that would bring a text to more than ten times its size stays, and so do those that come
    after a thousand of them in a megabyte.
    """

    reference: ClassVar[str | None] = "arxiv_macro_modifier"

    def rewrite(self, text: str) -> str:
        macros = dict(_definitions(_NEWCOMMAND, text)) | dict(_definitions(_DEF, text))
        limit, work = MAX_GROWTH * len(text), 0
        for name, value in macros.items():
            work += len(text)
            if work > MAX_WORK:
                break
            starts = [
                match.start() for match in re.finditer(rf"{re.escape(name)}(?![a-zA-Z0-9])", text)
            ]
            if len(text) + len(starts) * (len(value) - len(name)) > limit:
                continue
            text = _replaced(text, starts, len(name), value)
        return text


def _replaced(text: str, starts: list[int], length: int, value: str) -> str:
    """A text with `length` characters at each place replaced."""
    parts, position = [], 0
    for start in starts:
        parts += [text[position:start], value]
        position = start + length
    return "".join((*parts, text[position:]))


_HEADING = r"\\(?:{names})\*?([\[{{])"
_FIRST_HEADING = re.compile(
    _HEADING.format(names="chapter|part|section|subsection|subsubsection|paragraph|subparagraph")
)
_FIRST_HEADING_DCLM = re.compile(
    _HEADING.format(names="chapter|part|section|subsection|subsubsection|paragraph\\\\subparagraph")
)


def _first_heading(pattern: re.Pattern[str], text: str) -> int | None:
    """Where the first heading begins whose braces close on its line."""
    line = _Line(text)
    for command in pattern.finditer(text):
        line.move(command.end())
        last = line.last_brace if command[1] == "{" else line.last_pair
        if last >= command.end():
            return command.start()
    return None


class LatexPreamble(Rewrite, name="latex_preamble"):
    """Drop everything before the first heading; a text without headings goes."""

    split_paragraph_command: bool = Field(
        False, description="overlook paragraph and subparagraph, as DCLM does"
    )
    reference: ClassVar[str | None] = "arxiv_section_strip_modifier"

    def rewrite(self, text: str) -> str | None:
        pattern = _FIRST_HEADING_DCLM if self.split_paragraph_command else _FIRST_HEADING
        start = _first_heading(pattern, text)
        return None if start is None else text[start:]
