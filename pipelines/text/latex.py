"""Modifiers for LaTeX sources, as RedPajama-v1 prepared arXiv (Together 2023)."""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import Field

from pipelines.text.rewrites import Rewrite

_APPENDIX = re.compile(
    r"\\appendix|\\begin\{(?:references|REFERENCES|thebibliography)\}|\\bibliography\{.*?\}"
)


class LatexAppendix(Rewrite, name="latex_appendix"):
    """Cut everything from the first appendix or bibliography on."""

    reference: ClassVar[str | None] = "arxiv_appendix_modifier"

    def rewrite(self, text: str) -> str:
        match = _APPENDIX.search(text)
        return text if match is None else text[: match.start()]


_COMMENT_LINE = re.compile(r"(?m)^%.*\n?")
_COMMENT_TAIL = re.compile(r"[^\\]%.+$", re.MULTILINE)
_COMMENT_TAIL_RIGHT = re.compile(r"(?<!\\)%.*$", re.MULTILINE)
_COMMENT_BLOCK = re.compile(r"\\begin\{comment\}.*?\\end\{comment\}", re.DOTALL)


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
        return _COMMENT_BLOCK.sub("", text) if self.environments else text


_NEWCOMMAND = re.compile(r"\\newcommand\*?\{(\\[a-zA-Z0-9]+?)\}\{(.*?)\}$", re.MULTILINE)
_DEF = re.compile(r"\\def\s*(\\[a-zA-Z0-9]+?)\s*\{(.*?)\}$", re.MULTILINE)


class LatexMacros(Rewrite, name="latex_macros"):
    """Expand macros without arguments that are defined on one line (newcommand and def).

    A macro is expanded where no letter or digit follows; the definitions are rewritten as well.
    """

    reference: ClassVar[str | None] = "arxiv_macro_modifier"

    def rewrite(self, text: str) -> str:
        macros = dict(_NEWCOMMAND.findall(text)) | dict(_DEF.findall(text))
        for name, value in macros.items():
            escaped = value.replace("\\", r"\\")
            text = re.sub(re.escape(name) + r"(?![a-zA-Z0-9])", escaped, text)
        return text


_HEADING = r"\\(?:{names})\*?(?:\[(?:.*?)\])?\{{(?:.*?)\}}"
_FIRST_HEADING = re.compile(
    _HEADING.format(names="chapter|part|section|subsection|subsubsection|paragraph|subparagraph")
)
_FIRST_HEADING_DCLM = re.compile(
    _HEADING.format(names="chapter|part|section|subsection|subsubsection|paragraph\\\\subparagraph")
)


class LatexPreamble(Rewrite, name="latex_preamble"):
    """Drop everything before the first heading; a text without headings goes."""

    split_paragraph_command: bool = Field(
        False, description="overlook paragraph and subparagraph, as DCLM does"
    )
    reference: ClassVar[str | None] = "arxiv_section_strip_modifier"

    def rewrite(self, text: str) -> str | None:
        pattern = _FIRST_HEADING_DCLM if self.split_paragraph_command else _FIRST_HEADING
        match = pattern.search(text)
        return None if match is None else text[match.start() :]
