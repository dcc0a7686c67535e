"""LaTeX rules give what the published expressions give, in time proportional to the text."""

from __future__ import annotations

import random
import re
import time

import pytest

from pipelines.text.latex import LatexAppendix, LatexComments, LatexMacros, LatexPreamble
from pipelines.text.rewrites import Rewrite

# The expressions of RedPajama-v1's arXiv cleaner, as DCLM's mappers use them.
APPENDIX = re.compile(
    r"\\appendix|\\begin\{(?:references|REFERENCES|thebibliography)\}|\\bibliography\{.*?\}"
)
COMMENT = re.compile(r"\\begin\{comment\}.*?\\end\{comment\}", re.DOTALL)
NEWCOMMAND = re.compile(r"\\newcommand\*?\{(\\[a-zA-Z0-9]+?)\}\{(.*?)\}$", re.MULTILINE)
DEF = re.compile(r"\\def\s*(\\[a-zA-Z0-9]+?)\s*\{(.*?)\}$", re.MULTILINE)
HEADING = re.compile(
    r"\\(?:chapter|part|section|subsection|subsubsection|paragraph|subparagraph)"
    r"\*?(?:\[(?:.*?)\])?\{(?:.*?)\}"
)
PIECES = [
    *(
        "\\appendix",
        "\\begin{references}",
        "\\bibliography{",
        "}",
        "{",
        "\n",
        "a",
        "b ",
        "1",
        "\\\\",
    ),
    *("\\begin{comment}", "\\end{comment}", "\\newcommand{\\a}{", "\\newcommand*{\\b}{", "}\n"),
    *("\\def\\c{", "\\def \\a {", "\\def\n\\b{", "\\a", "\\b", "\\c", "\\ab", "\u2028", "\r"),
    *("\\section", "\\section*", "[", "]", "]{", "\\subsection{", "\\part[", "\\partial{"),
]


def expanded(text: str) -> str:
    for name, value in (dict(NEWCOMMAND.findall(text)) | dict(DEF.findall(text))).items():
        text = re.sub(re.escape(name) + r"(?![a-zA-Z0-9])", value.replace("\\", r"\\"), text)
    return text


def test_every_rule_is_the_published_expression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.text.latex.MAX_GROWTH", 10**6)
    rng = random.Random(0)
    for _ in range(5_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 14)))
        end = APPENDIX.search(text)
        assert LatexAppendix().rewrite(text) == (text if end is None else text[: end.start()])
        start = HEADING.search(text)
        assert LatexPreamble().rewrite(text) == (None if start is None else text[start.start() :])
        assert LatexMacros().rewrite(text) == expanded(text)
        if "%" not in text:
            assert LatexComments(environments=True).rewrite(text) == COMMENT.sub("", text)


def seconds(rule: Rewrite, text: str) -> float:
    start = time.process_time()
    rule.rewrite(text)
    return time.process_time() - start


@pytest.mark.parametrize(
    ("rule", "unit"),
    [
        (LatexAppendix(), "\\bibliography{"),
        (LatexComments(environments=True), "\\begin{comment}"),
        (LatexMacros(), "\\def\\a{"),
        (LatexMacros(), "\\newcommand{\\a}{"),
        (LatexPreamble(), "\\section["),
        (LatexPreamble(), "\\section{"),
    ],
)
def test_commands_that_never_close_take_time_in_proportion(rule: Rewrite, unit: str) -> None:
    """On one line: the published expressions look through all of it from every command."""
    assert min(seconds(rule, unit * (1_000_000 // len(unit))) for _ in range(2)) < 1


def test_macros_made_of_macros_do_not_double_a_text_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laughs = "".join(f"\\def\\m{n}{{\\m{n + 1}\\m{n + 1}}}\n" for n in range(60)) + "\\m0"
    assert len(LatexMacros().rewrite(laughs)) <= 10 * len(laughs)
    monkeypatch.setattr("pipelines.text.latex.MAX_WORK", 100_000)
    many = "".join(f"\\def\\m{n}{{x}}\n" for n in range(1_000))
    rest = LatexMacros().rewrite(many).splitlines()
    assert rest[0] == "\\defx{x}"
    assert rest[-1] == "\\def\\m999{x}"


def test_a_macro_is_expanded_in_definitions_too_and_each_only_once() -> None:
    text = "\\def\\a{x}\n\\def\\b{\\a y}\n\\a \\b \\ab"
    assert LatexMacros().rewrite(text) == "\\defx{x}\n\\def\\a y{x y}\nx \\a y \\ab"
