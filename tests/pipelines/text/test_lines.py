"""Line modifiers and rewrites: the compiled way against the plain statement, and their edges."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.assets.catalogue import Assets
from pipelines.batch import Batch
from pipelines.operators import Modifier
from pipelines.registry import build, registry
from pipelines.schema import STRING

PIECES = [
    "A", "b", "ABC def", "\u00c9T\u00c9", "123", "\u00b2", "\u0663", " ", "  ", "\u3000", "\t",
    "\n", "\n", "\n\n", "\r", "\x1c", "\u2028", ".", "...", "\u2026", "!", '"', "?", "JavaScript",
    "java\u017fcript", "use cook\u0131es", "\u0130tems in cart", "Items in Cart", "Read more...",
    "Read more now", "Sign-in", "3.4k likes", "1,2 views \u2764", "\u212a views", "7 comments",
    "http://a.com/x", "visit b.org now", "The", "node.js", "10.0.0.1", "x10.0.0.1/a",
    "300.1.1.999", "[1]", "[edit]", "e.g. x.com.",
]  # fmt: skip

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("line_words", {}),
    ("line_words", {"min_words": 0, "max_words": 1, "keep_blank": True}),
    ("uppercase_lines", {"strip": True, "keep_blank": True}),
    ("uppercase_lines", {"max_fraction": 0.1}),
    ("digit_lines", {}),
    ("digit_lines", {"max_fraction": 0.2, "strip": True}),
    ("counter_lines", {"strip": True}),
    ("unfinished_lines", {}),
    ("unfinished_lines", {"drop_ellipses": True, "keep_blank": True}),
    ("unfinished_lines", {"endings": ["c", "\u3000"]}),
    ("policy_lines", {}),
    ("long_word_lines", {"max_characters": 3}),
    ("drop_repeated_lines", {}),
    ("drop_repeated_lines", {"unit": "paragraph", "normalize": False}),
    ("substring_lines", {"phrases": ["javascript", "use cookies"]}),
    ("substring_lines", {"phrases": ["items in cart"], "remove_only": True, "drop_blank": True}),
    ("substring_lines", {"phrases": ["Read more..."], "regex": True, "location": "suffix"}),
    ("substring_lines", {"phrases": ["the?", "b*c"], "regex": True, "remove_only": True}),
    ("substring_lines", {"phrases": ["Sign-in"], "location": "prefix", "max_words": 1}),
    ("substring_lines", {"phrases": ["\u00e9t"], "case_sensitive": False}),
]
REWRITES: list[tuple[str, dict[str, Any]]] = [
    ("citations", {}),
    ("newlines", {"max_newlines": 1}),
    ("remove_urls", {}),
    ("remove_urls", {"only_if_text_starts_with_domain": True}),
]


def made(name: str, parameters: dict[str, Any], folder: Path) -> Modifier:
    operator = build(registry()[name], parameters, where="test")
    operator.load(Assets(folders=(folder,)))
    assert isinstance(operator, Modifier)
    return operator


def modified(operator: Modifier, texts: list[str]) -> list[str | None]:
    batch = Batch(pa.table({"text": pa.array(texts, type=STRING)}))
    return operator.modify(batch)["text"].to_pylist()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    (folder / "iana_tlds.txt").write_text("com\norg\njs\nco\nth\ncom.br\nis\n")
    return folder


def random_texts(number: int) -> list[str]:
    chance = random.Random(11)
    return ["".join(chance.choices(PIECES, k=chance.randint(0, 12))) for _ in range(number)]


@pytest.mark.parametrize(("name", "parameters"), STEPS + REWRITES)
def test_compiled_modifiers_equal_the_plain_statement(
    name: str, parameters: dict[str, Any], folder: Path
) -> None:
    operator: Any = made(name, parameters, folder)
    texts = random_texts(3000)
    expected = [operator.plain(text) or None for text in texts]
    actual = modified(operator, texts)
    assert [(t, f, w) for t, f, w in zip(texts, actual, expected, strict=True) if f != w] == []


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=50), min_size=1, max_size=4))
def test_any_text_equals_the_plain_statement(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    for name, parameters in STEPS:
        operator: Any = made(name, parameters, Path("."))
        assert modified(operator, texts) == [operator.plain(text) or None for text in texts]


def test_real_pages_equal_the_plain_statement(data: Path, folder: Path) -> None:
    with gzip.open(data / "web" / "extracted_text.jsonl.gz") as file:
        texts = [orjson.loads(line)["text"] for line in file][::6]
    for name, parameters in STEPS + REWRITES:
        operator: Any = made(name, parameters, folder)
        actual = modified(operator, texts)
        assert actual == [operator.plain(text) or None for text in texts], name


def test_rules_in_a_row_give_what_each_gives_alone(folder: Path) -> None:
    """The figures of lines are carried along when lines go: they must stay those of the text."""
    texts = random_texts(500)
    batch = Batch(pa.table({"text": pa.array(texts, type=STRING)}))
    expected: list[str | None] = list(texts)
    for name, parameters in [*STEPS[:9], STEPS[1], STEPS[3]]:
        operator: Any = made(name, {**parameters, "keep_blank": True}, folder)
        batch = batch.write(operator.modify(batch))
        batch = batch.keep(batch.text.is_valid().to_numpy(zero_copy_only=False))
        expected = [e for text in expected if text and (e := operator.plain(text))]
        assert batch.text.to_pylist() == expected


def test_a_text_without_changes_is_not_copied(folder: Path) -> None:
    batch = Batch(pa.table({"text": pa.array(["a b c", "d e f"], type=STRING)}))
    for name, parameters in [STEPS[0], *STEPS[2:5], *REWRITES]:
        operator: Any = made(name, parameters, folder)
        written = operator.modify(batch)["text"]
        assert written.buffers()[2].address == batch.text.buffers()[2].address, name


def test_an_empty_text_goes_and_a_blank_one_only_by_default(folder: Path) -> None:
    assert modified(made("line_words", {}, folder), ["", "\n", "\n\n"]) == [None, None, None]
    kept = modified(made("line_words", {"keep_blank": True}, folder), ["", "\n", "\n\n"])
    assert kept == [None, "\n", "\n\n"]


def test_phrases_match_in_any_case_of_any_script(folder: Path) -> None:
    operator = made("substring_lines", {"phrases": ["stra\u00dfe", "\u044f\u0431"]}, folder)
    assert modified(operator, ["a\nSTRASSE", "b\n\u042f\u0411", "STRA\u00dfE x\nok"]) == [
        "a\nSTRASSE",
        "b",
        "ok",
    ]
