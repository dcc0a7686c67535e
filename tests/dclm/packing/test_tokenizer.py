"""Ids are those of the tokenizers library on every text, and files are pinned by content."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import data_sets
import fastokens
import numpy as np
import pytest
import tokenizers

from dclm.packing import tokenizer
from dclm.packing.tokenizer import Tokenizer
from dclm.recipe import TokenizerSpec, load_recipe, recipe_names
from pipelines.text import bpe
from pipelines.text.bpe import BatchEncoder


def neox(fixtures: Path) -> Path:
    path = fixtures / "dclm-eval" / "gpt-neox-20b-tokenizer" / "tokenizer.json"
    if not path.exists():
        pytest.skip("no copy of gpt-neox-20b in the fixtures")
    return path


def both(path: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    ours = Tokenizer(path.read_bytes(), name="x", source=str(path))
    return ours, tokenizers.Tokenizer.from_file(str(path))


def assert_equal(path: Path, texts: list[str]) -> None:
    ours, exact = both(path)
    expected = exact.encode_batch_fast(texts, add_special_tokens=False)
    for text, ids, encoding in zip(texts, ours.encode(texts), expected, strict=True):
        assert ids == encoding.ids, repr(text[:200])


PIECES = [" ", "  ", "   ", "\t", "\n", " \n", "\r\n", "a", "B", "é", "e\u0301", "\u1100\u1161"]
PIECES += ["ﬁ", "<|endoftext|>", "<|padding|>", "'s", "'LL", "123", "🙂", "\u200d", "\x00", "\xa0"]
PIECES += ["\u3000", "中", "א", "\u0300", "!!", "...", "\ufeff", "ß", "ſ", "\u2028", "\x85"]
PIECES += [
    " " * 25,
    " " * 24,
    " " * 50,
    "_",
    "-",
    "\u0958",
    "\u212b",
    "'re",
    "'d",
    "\u05c8",
    "\u0898",
]


def hostile(count: int) -> list[str]:
    chance = random.Random(0)
    texts = ["".join(chance.choices(PIECES, k=chance.randint(1, 30))) for _ in range(count)]
    for _ in range(count):
        numbers = [chance.choice([0x7F, 0x2FFF, 0x10FFFF]) for _ in range(20)]
        points = [chance.randint(0, limit) for limit in numbers]
        texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return texts


@pytest.mark.parity
def test_neox_ids_on_hostile_text_equal_tokenizers(fixtures: Path) -> None:
    assert_equal(neox(fixtures), hostile(1500))


@pytest.mark.parity
def test_neox_ids_on_evaluation_texts_equal_tokenizers(fixtures: Path) -> None:
    texts = []
    for path in sorted(fixtures.glob("dclm-eval/local_data/**/*.jsonl")):
        texts += path.read_text().splitlines()[:40]
    if not texts:
        pytest.skip("no evaluation texts in the fixtures")
    assert_equal(neox(fixtures), texts)


@pytest.mark.parity
def test_neox_ids_on_web_pages_equal_tokenizers(fixtures: Path, data: Path) -> None:
    path = data / "web" / "extracted_text.jsonl.gz"
    if not path.exists():
        pytest.skip("no extracted pages in the data folder")
    with gzip.open(path, "rt") as file:
        texts = [json.loads(line)["text"] for line in file][::4]
    assert_equal(neox(fixtures), texts)


@pytest.mark.slow
@pytest.mark.parity
def test_every_character_of_unicode_equals_tokenizers(fixtures: Path) -> None:
    """Between marks of other classes, and before a contraction: where libraries differ."""
    characters = [chr(n) for n in range(0x30000) if not 0xD800 <= n < 0xE000]
    for template in ("a\u0357{0}\u0323b", "x {0}'s{0}"):
        assert_equal(neox(fixtures), [template.format(c) for c in characters])


@pytest.mark.parity
def test_recipes_pin_the_content_of_neox(fixtures: Path) -> None:
    ours, _ = both(neox(fixtures))
    scales = [load_recipe(name) for name in recipe_names()]
    pinned = {r.tokenizer.sha256 for r in scales if r.tokenizer.name == "gpt-neox-20b"}
    assert pinned == {ours.sha256}
    assert ours.num_ids == 50_277
    assert ours.encode(["  "]) == [[50_276]], "a run of spaces is its added token"


def test_tiny_ids_on_hostile_text_equal_tokenizers() -> None:
    assert_equal(tokenizer.ASSETS / "tiny-bpe.json", hostile(500))


def test_tiny_tokenizer_is_the_one_of_the_recipe() -> None:
    recipe = load_recipe("tiny")
    loaded = tokenizer.load(recipe.tokenizer)
    assert loaded.sha256 == recipe.tokenizer.sha256
    assert loaded.num_ids == recipe.tokenizer.pad == recipe.model.vocab_size - 1
    text = "The quick brown fox\n\n    jumps over it. 你好 \U0001f642"
    assert loaded.decode(loaded.encode([text])[0]) == text


def test_training_again_gives_the_same_bytes() -> None:
    texts = data_sets.sentences(200, seed=1)
    assert tokenizer.train(texts, 319) == tokenizer.train(iter(texts), 319)
    ids = Tokenizer(data_sets.trained_tokenizer(), name="x", source="x").encode(["<|endoftext|>"])
    assert ids == [[0]]


def test_fingerprint_does_not_depend_on_how_the_file_is_written() -> None:
    data = (tokenizer.ASSETS / "tiny-bpe.json").read_bytes()
    value = json.loads(data)
    value["model"]["merges"] = [merge.split(" ") for merge in value["model"]["merges"]]
    value["added_tokens"].append({"id": 2100, "content": "|||IP_ADDRESS|||", "special": False})
    other = json.dumps(value, indent=4).encode()
    assert tokenizer.canonical(other, source="x") == tokenizer.canonical(data, source="x") == data


def test_changed_tokenizer_is_refused(tmp_path: Path) -> None:
    path = data_sets.tokenizer_file(tmp_path)
    spec = TokenizerSpec(name=str(path), sha256="0" * 64, end_of_text=0, pad=319)
    with pytest.raises(ValueError, match=r"words\.json is not the tokenizer .* fingerprint"):
        tokenizer.load(spec)


def test_pad_that_is_a_token_is_refused(tmp_path: Path) -> None:
    path = data_sets.tokenizer_file(tmp_path)
    spec = TokenizerSpec(name=str(path), end_of_text=0, pad=318)
    with pytest.raises(ValueError, match=r"the pad id 318 is a token .* ids end at 318"):
        tokenizer.load(spec)


def test_missing_tokenizer_says_where_to_put_it() -> None:
    spec = TokenizerSpec(name="no-such", end_of_text=0, pad=1)
    with pytest.raises(ValueError, match=r"'no-such' is not on this machine; put .*no-such\.json"):
        tokenizer.load(spec)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"model": {"type": "Unigram"}}'])
def test_file_that_is_no_tokenizer_is_named(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^mine\.json is not"):
        tokenizer.canonical(data, source="mine.json")


class Wrong:
    """fastokens with a fault: one id more in each text that holds `bad`."""

    bad = ""

    def __init__(self, real) -> None:
        self.real = real

    @classmethod
    def from_json_str(cls, data: str) -> Wrong:
        return cls(REAL.from_json_str(data))

    def encode(self, text: str):
        from types import SimpleNamespace

        return SimpleNamespace(
            ids=[*self.real.encode(text).ids, *([7] if self.bad in text else [])]
        )

    def encode_batch_flat(self, texts: list[str]) -> tuple[bytes, bytes]:
        rows = [self.encode(text).ids for text in texts]
        ids = np.array([token for row in rows for token in row], np.uint32)
        ends = np.cumsum([0, *map(len, rows)]).astype(np.uint64)
        return ids.tobytes(), ends.tobytes()


REAL = fastokens.Tokenizer


def test_a_library_that_errs_on_the_check_at_loading_is_not_used(monkeypatch, caplog) -> None:
    monkeypatch.setattr(fastokens, "Tokenizer", Wrong)
    assert_equal(tokenizer.ASSETS / "tiny-bpe.json", hostile(50))
    assert "disagree on" in caplog.text
    encoder = BatchEncoder((tokenizer.ASSETS / "tiny-bpe.json").read_bytes())
    assert encoder.library == "tokenizers"


def test_a_library_that_errs_later_is_caught_by_the_sample(monkeypatch) -> None:
    monkeypatch.setattr(Wrong, "bad", "zebra")
    monkeypatch.setattr(fastokens, "Tokenizer", Wrong)
    encoder = BatchEncoder((tokenizer.ASSETS / "tiny-bpe.json").read_bytes())
    assert encoder.library == "fastokens"
    texts = [f"the zebra number {n} of many" for n in range(40_000)]
    sampled = [text for text in texts if bpe._is_sampled(text)]
    assert 2 < len(sampled) < 40, "about one in 4,096"
    encoder.encode([text for text in texts if text not in sampled])
    with pytest.raises(bpe.TokenizerError, match=r"other ids for the text that begins 'the zebra"):
        encoder.encode(sampled)


def test_texts_keep_their_places_over_several_calls(monkeypatch) -> None:
    monkeypatch.setattr(bpe, "CALL_CHARACTERS", 10)
    encoder = BatchEncoder((tokenizer.ASSETS / "tiny-bpe.json").read_bytes())
    texts = ["", "one two three four", "a", "", "b" * 30, "c d", ""]
    ids, offsets = encoder.encode(texts)
    assert ids.dtype == np.uint32
    assert encoder.exact.decode_batch([ids[a:b].tolist() for a, b in pairwise(offsets)]) == texts
    assert encoder.counts([]).tolist() == []
    assert encoder.counts(["", "x"]).tolist() == [0, 1]


def test_a_special_token_in_a_text_becomes_its_id_as_in_the_reference() -> None:
    ours = Tokenizer((tokenizer.ASSETS / "tiny-bpe.json").read_bytes(), name="x", source="x")
    [ids] = ours.encode(["a<|endoftext|>b"])
    assert ids == [*ours.encode(["a"])[0], 0, *ours.encode(["b"])[0]]
