"""Repeated spans against a plain search over all windows, who stays, and colliding hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from pipelines import kernels
from pipelines.dedup.substring import SubstringDedup
from pipelines.engine.apply import apply
from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.global_steps import repeated_spans
from pipelines.pipeline import Pipeline
from pipelines.storage.open import open_store


def curate(steps: list[Any], *shards: list[str], folder: Path) -> tuple[list[str | None], Any]:
    """What became of each text, and the run."""
    source = folder / "in"
    source.mkdir()
    for number, texts in enumerate(shards):
        lines = [orjson.dumps({"text": text}) + b"\n" for text in texts]
        (source / f"{number}.jsonl").write_bytes(b"".join(lines))
    result = run(Pipeline.from_steps(steps), open_pool(str(source)), out=str(folder / "out"))
    import pyarrow.parquet as pq

    left: dict[int, str] = {}
    for file in result.record.outputs:
        table = pq.read_table(folder / "out" / file.name)
        left |= dict(zip(table["row"].to_pylist(), table["text"].to_pylist(), strict=True))
    rows = [s << 32 | n for s, texts in enumerate(shards) for n in range(len(texts))]
    return [left.get(row) for row in rows], result


def kept(texts: list[str], **parameters: Any) -> list[str | None]:
    steps = [{"substring_dedup": parameters}]
    table = apply(Pipeline.from_steps(steps), pa.table({"text": texts}), quarantine=False).table
    left = dict(zip(table["row"].to_pylist(), table["text"].to_pylist(), strict=True))
    return [left.get(row) for row in range(len(texts))]


def units_of(text: str, units: str) -> list[tuple[bytes, int]]:
    """Each unit and its first byte, by the plainest means."""
    data = text.encode()
    if units == "bytes":
        return [(data[i : i + 1], i) for i in range(len(data))]
    collected, position = [], 0
    for word in text.split():
        position = text.index(word, position)
        collected.append((word.encode(), len(text[:position].encode())))
        position += len(word)
    return collected


def plain(texts: list[str], k: int, units: str, *, keep: str = "first") -> list[str | None]:
    """Look at every window of k units of every text; cut what repeats are covered by."""
    windows: dict[tuple[bytes, ...], list[tuple[int, int]]] = {}
    split = [units_of(text, units) for text in texts]
    for row, words in enumerate(split):
        for i in range(len(words) - k + 1):
            windows.setdefault(tuple(w for w, _ in words[i : i + k]), []).append((row, i))
    out: list[str | None] = []
    for row, (text, words) in enumerate(zip(texts, split, strict=True)):
        covered = [False] * len(words)
        for i in range(len(words) - k + 1):
            others = windows[tuple(w for w, _ in words[i : i + k])]
            if keep == "first":
                repeat = any(r < row or (r == row and j + k <= i) for r, j in others)
            else:
                repeat = any(r != row or abs(j - i) >= k for r, j in others)
            if repeat:
                covered[i : i + k] = [True] * k
        data = text.encode()
        stops = [*(start for _, start in words), len(data)][1:]
        removed = bytearray(len(data))
        for (_, start), stop, lost in zip(words, stops, covered, strict=True):
            removed[start:stop] = bytes([lost]) * (stop - start)
        if units == "bytes":  # a character goes only as a whole
            position = 0
            for character in text:
                size = len(character.encode())
                if not all(removed[position : position + size]):
                    removed[position : position + size] = bytes(size)
                position += size
        left = bytes(b for b, lost in zip(data, removed, strict=True) if not lost).decode()
        out.append(left if left.strip() or not any(removed) else None)
    return out


def pool(rng: np.random.Generator, number: int, letters: str) -> list[str]:
    """Texts of few words with planted repeats, across texts and inside one."""
    texts: list[str] = []
    for _ in range(number):
        words = list(rng.choice(list(letters), rng.integers(0, 40)))
        if texts and rng.random() < 0.6:
            other = texts[rng.integers(len(texts))].split()
            start = rng.integers(0, len(other) + 1)
            position = rng.integers(0, len(words) + 1)
            words[position:position] = other[start : start + rng.integers(0, 25)]
        if rng.random() < 0.2 and words:
            words += words[: rng.integers(1, len(words) + 1)]
        texts.append("".join(w + str(rng.choice([" ", "  ", "\n"])) for w in words))
    return texts


@pytest.mark.parametrize("keep", ["first", "none"])
@pytest.mark.parametrize("units", ["whitespace", "bytes"])
@pytest.mark.parametrize("k", [2, 3, 8, 13])
def test_agrees_with_a_search_over_all_windows(units: str, k: int, keep: str) -> None:
    rng = np.random.default_rng(k)
    texts = pool(rng, 150, "abcdefgh" if k < 8 else "abé日")
    expected = plain(texts, k, units, keep=keep)
    assert kept(texts, units=units, length=k, keep=keep) == expected
    assert expected != texts


def test_agrees_on_shards_with_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeated_spans, "PART_KEYS", 500)
    monkeypatch.setattr(repeated_spans, "CHUNK_UNITS", 40)
    texts = pool(np.random.default_rng(3), 300, "abcdefghijklmnop")
    steps = [{"substring_dedup": {"units": "whitespace", "length": 6}}]
    shards = [texts[:120], [], texts[120:130], texts[130:]]
    left, result = curate(steps, *shards, folder=tmp_path)
    assert left == plain(texts, 6, "whitespace")
    assert result.record.counts["rows_out"] < 300


def test_only_spans_with_equal_bytes_go_when_hashes_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = pool(np.random.default_rng(5), 200, "abcdefgh")
    expected = plain(texts, 8, "whitespace")
    true_windows = kernels.spans.windows

    def weak(*arguments: Any, **options: Any) -> Any:
        windows = true_windows(*arguments, **options)
        windows.key[:] %= 13
        windows.route[:] = 0
        return windows

    monkeypatch.setattr(kernels.spans, "windows", weak)
    steps = [{"substring_dedup": {"units": "whitespace", "length": 8}}]
    left, _ = curate(steps, texts[:100], texts[100:], folder=tmp_path)
    refused = 0
    for done in open_store(str(tmp_path / "out")).list("done/spans"):
        counts = orjson.loads((tmp_path / "out" / done.name).read_bytes())["counts"]
        refused += counts["refused_windows"]
    assert refused > 1000
    for text, ours, all_gone in zip(texts, left, expected, strict=True):
        assert len(ours or "") >= len(all_gone or ""), text  # nothing goes that is not a repeat


def test_the_first_stays_and_the_rest_is_cut_out_with_the_space_behind_it() -> None:
    span = "one two three four five six"
    texts = [f"Before it {span} after it.", f"{span} and more", f"more {span}", span, "one two"]
    assert kept(texts, length=6) == [texts[0], "and more", "more ", None, "one two"]
    assert kept(texts, length=7) == texts
    dropped = kept(texts, length=6, action="drop")
    assert dropped == [texts[0], None, None, None, "one two"]
    assert kept(texts, length=6, keep="none")[0] == "Before it after it."


def test_one_word_repeated_keeps_one_span() -> None:
    assert kept(["so " * 5000], length=50) == ["so " * 50]
    assert kept(["so " * 99], length=50) == ["so " * 99]  # no two spans clear of each other
    assert kept(["ab " * 300, "ab " * 70], length=50) == ["ab " * 50, None]


def test_empty_short_and_many_equal_documents() -> None:
    text = " ".join(f"w{n}" for n in range(60))
    assert kept(["", " ", "a b", text] + [text] * 3000 + ["a b"]) == (
        ["", " ", "a b", text] + [None] * 3000 + ["a b"]
    )


def test_characters_that_are_partly_covered_stay() -> None:
    # "aé" + 2 bytes that begin like the next text's: the span ends inside of a character
    texts = ["xxxxéabcdef", "éabcdeg"]
    assert kept(texts, units="bytes", length=7) == ["xxxxéabcdef", "g"]
    texts = ["12345é", "12345è"]  # é and è share their first byte
    assert kept(texts, units="bytes", length=6) == ["12345é", "è"]


def test_an_anchor_is_shared_by_equal_windows_wherever_they_stand() -> None:
    rng = np.random.default_rng(1)
    window = rng.integers(0, 1 << 63, 50, dtype=np.uint64)
    texts = [
        np.concatenate([rng.integers(0, 1 << 63, n, dtype=np.uint64), window]) for n in range(60)
    ]
    keys = []
    for text in texts:
        ends = np.array([len(text)])
        anchors = kernels.spans.anchors(text, np.array([0]), ends, window=50, gram=25)
        keys.append({(int(high), int(low)) for high, low in anchors.key})
    assert set.intersection(*keys)


def test_few_places_are_anchors() -> None:
    rng = np.random.default_rng(2)
    text = rng.integers(0, 1 << 63, 100_000, dtype=np.uint64)
    anchors = kernels.spans.anchors(text, np.array([0]), np.array([100_000]), window=50, gram=25)
    assert 0.065 < len(anchors.unit) / 100_000 < 0.085  # 2 / 27


def test_the_operator_says_what_bad_parameters_are() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        SubstringDedup.model_validate({"length": 1})


def test_excerpts_are_the_bytes_of_the_span() -> None:
    assert SubstringDedup().excerpt("añ o", 1 << 32 | 4) == "ñ "
