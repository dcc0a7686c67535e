"""Passages found again: all that are planted, none that are not, on any number of workers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import kernels
from pipelines.errors import DataError, UsageError
from pipelines.execution.executors import ProcessMap, map_here
from pipelines.reports import find_text
from pipelines.reports.find_text import MIN_WORDS, build, find, fingerprints, nearest
from pipelines.schema import STRING
from pipelines.storage.base import Store

VOCABULARY = np.array([f"w{n}" for n in range(500)])
PLANTED = 100


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """300 documents of common words in three shards, one of them parquet; 100 planted sentences."""
    folder = tmp_path_factory.mktemp("find")
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(VOCABULARY, MIN_WORDS)) for _ in range(PLANTED)]
    for shard in range(3):
        rows = []
        for n in range(shard, 300, 3):
            words = rng.choice(VOCABULARY, 200).tolist()
            at = int(rng.integers(0, 200))
            middle = [sentences[n]] if n < PLANTED else []
            text = " ".join([*words[:at], *middle, *words[at:]])
            rows.append({"text": text, "url": f"u:{n}"})
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (folder / "in" / f"{shard}.jsonl").write_bytes(data)
    build(str(folder / "in"), out=str(folder / "index"), map_tasks=map_here)
    return folder, sentences


def test_every_planted_sentence_is_found(planted: tuple[Path, list[str]]) -> None:
    folder, sentences = planted
    urls = [[m.url for m in find(text, str(folder / "index"))] for text in sentences]
    assert urls == [[f"u:{n}"] for n in range(PLANTED)]


def test_a_passage_of_the_commonest_words_is_found_among_many_documents_that_are_near(
    tmp_path: Path,
) -> None:
    """Hundreds of documents share as many fingerprints with it as the one that holds it."""
    words = [f"w{n}" for n in range(15)]
    rows = []
    for n in range(450):
        cut = 1 + n % 13  # all of the passage but its order at one place
        rows.append({"text": " ".join([*words[cut:], "or", *words[:cut], "and"] * 3)})
    rows.append({"text": " ".join(["x", *words])})
    [match] = find(" ".join(words), _index(rows, tmp_path))
    assert match.number == 450


def test_only_documents_with_the_same_words_around_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 documents have the passage but for one word, each place in turn; one has all of it."""
    words = [f"w{n}" for n in range(15)]
    rows = []
    for n in range(2000):
        other = words.copy()
        other[n % 15] = f"x{n}"
        rows.append({"text": " ".join(["before", *other, "after"])})
    rows.append({"text": " ".join(words)})
    index = _index(rows, tmp_path)
    read: list[int] = []
    document = find_text._document

    def counted(known: find_text.IndexFile, store: Store, row: int) -> tuple[str | None, str]:
        read.append(row)
        return document(known, store, row)

    monkeypatch.setattr(find_text, "_document", counted)
    for first, last in ((0, 15), (1, 15), (0, 12)):
        read.clear()
        matches = [m.number for m in find(" ".join(words[first:last]), index, most=2000)]
        assert matches == [n for n in range(2000) if not first <= n % 15 < last] + [2000]
        # Four bits of a word: one in 16 documents that differ at the outermost one looks alike.
        assert len(read) - len(matches) <= 2 * 2000 / 15 / 4


def test_a_passage_that_repeats_itself_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Its fingerprints are equal, with other words around each."""
    cases = ["a b c d e " * 3, "a " * 12, "a b " * 10, "a a a a b a a a a a a a a a c"]
    rows = [{"text": f"{side} {case} {side}".strip()} for case in cases for side in ("", "z", "a")]
    index = _index(rows, tmp_path)
    for number, case in enumerate(cases):
        matches = {match.number for match in find(case, index)}
        assert {3 * number, 3 * number + 1, 3 * number + 2} <= matches, case


def _index(rows: list[dict[str, str]], folder: Path) -> str:
    (folder / "in").mkdir()
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    (folder / "in" / "a.jsonl").write_bytes(data)
    build(str(folder / "in"), out=str(folder / "index"), map_tasks=map_here)
    return str(folder / "index")


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_rows_with_all_fingerprints_are_those_of_plain_sets(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Common fingerprints, twice in some rows, looked at a few rows at a time."""
    monkeypatch.setattr(find_text, "FIRST_ROWS", size)
    rng = np.random.default_rng(size)
    hashes = np.array([5, 6, 7, 1 << 60, (1 << 63) + 9], np.uint64)
    postings = [np.sort(rng.integers(0, 60, number)) for number in (40, 70, 0, 90, 55)]
    for bucket in range(find_text.BUCKETS):
        here = [n for n in range(5) if find_text.bucket_of(hashes[n : n + 1])[0] == bucket]
        keys = [np.full(len(postings[n]), hashes[n]) for n in here]
        empty = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        np.save(tmp_path / f"hash-{bucket:03d}.npy", np.concatenate(keys or empty[0]))
        rows = np.concatenate([postings[n] for n in here] or empty[1])
        np.save(tmp_path / f"row-{bucket:03d}.npy", rows.astype(np.int64))
    sets = [set(rows.tolist()) for rows in postings]
    none = np.zeros(5, np.uint64)
    for asked in ([0], [0, 1], [0, 1, 3, 4], [3, 4], [1, 2]):
        every = set.intersection(*(sets[n] for n in asked))
        chosen = find_text.Fingerprints(*(values[asked] for values in (none, hashes, none, none)))
        assert list(find_text._holders(find_text._postings(tmp_path, chosen))) == sorted(every)
        shared = {
            row: sum(row in sets[n] for n in asked) for row in set.union(*(sets[n] for n in asked))
        }
        by_share = sorted(shared, key=lambda row: (-shared[row], row))
        assert list(find_text._candidates(find_text._postings(tmp_path, chosen))) == by_share


def test_case_and_white_space_do_not_count(planted: tuple[Path, list[str]]) -> None:
    folder, sentences = planted
    [match] = find(sentences[7].upper().replace(" ", "\n "), str(folder / "index"))
    assert (match.url, match.shard, match.number) == ("u:7", 1, 2)
    assert sentences[7] in match.passage


def test_capitals_of_any_language_do_not_count(tmp_path: Path) -> None:
    """The lower case of a dotted capital i has two characters."""
    turkish = "Samsun’un İLKADEM ilçesi Kadıköy Mahallesi’nde bir iki üç dört beş altı yedi"
    greek = "Ο ΦΙΛΌΣΟΦΟΣ ΚΑΙ ΟΙ ΆΛΛΟΙ ΜΑΘΗΤΈΣ ΤΟΥ ήταν εκεί όταν ήρθε αυτός σήμερα"
    index = _index([{"text": f"{side} {turkish} {side}"} for side in ("", "İİ")], tmp_path)
    for match in find(turkish, index):
        assert turkish in match.passage
    assert len(find(turkish.replace("İLKADEM", "İlkadem"), index)) == 2
    (tmp_path / "greek").mkdir()
    index = _index([{"text": f"before {greek} after"}], tmp_path / "greek")
    assert [match.passage for match in find(greek, index)] == [f"before {greek} after"]


def test_what_is_not_there_is_not_found(planted: tuple[Path, list[str]]) -> None:
    folder, sentences = planted
    changed = sentences[0].split()
    changed[6] = "other"  # five words on each side are there: a candidate, and no match
    assert find(" ".join(changed), str(folder / "index")) == []


def test_too_few_words_and_no_index_are_refused(
    planted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="at least 5 words"):
        find("only four words here", str(planted[0] / "index"))
    with pytest.raises(UsageError, match="is no index"):
        find("five words or more here", str(tmp_path))
    with pytest.raises(UsageError, match="has 5 words, so there is nothing"):
        _index([{"content": "five words or more here"}, {"text": "only four words here"}], tmp_path)


def test_processes_and_formats_give_the_same_answers(
    planted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, sentences = planted
    (tmp_path / "in").mkdir()
    for file in sorted((folder / "in").glob("*.jsonl")):
        rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, tmp_path / "in" / f"{file.stem}.parquet", row_group_size=30)
    build(str(tmp_path / "in"), out=str(tmp_path / "index"), map_tasks=ProcessMap(2))
    for file in sorted((folder / "index").glob("*.npy")):
        assert file.read_bytes() == (tmp_path / "index" / file.name).read_bytes()
    [match] = find(sentences[99], str(tmp_path / "index"))
    assert match.url == "u:99"


def test_fingerprints_are_the_least_of_every_window() -> None:
    rng = np.random.default_rng(1)
    texts = pa.array([" ".join(rng.choice(VOCABULARY, n)) for n in (60, 4, 5, 9, 0)], STRING)
    every = fingerprints(texts, window=1)
    kept_rows, kept, _ = kernels.winnow.fingerprints(*_words(texts), ngram=5, window=8)
    for row in range(5):
        values = every.hash[every.row == row].tolist()
        windows = [values[n : n + 8] for n in range(max(1, len(values) - 7))] if values else []
        assert set(kept[kept_rows == row].tolist()) == {min(window) for window in windows}


def _words(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words = kernels.words.whitespace(texts)
    return words.hash, words.begin, words.end


def test_the_nearest_document_is_the_one_that_shares_most(
    planted: tuple[Path, list[str]],
) -> None:
    folder, sentences = planted
    words = sentences[7].split()
    words[-1] = "other"  # 8 fives of 12 words, of which the last one is not there
    match = nearest(" ".join(words), str(folder / "index"))
    assert match is not None
    assert (match.url, match.share) == ("u:7", 7 / 8)
    assert match.passage.split()[:11] == words[:11]
    assert nearest("not one of these five words", str(folder / "index")) is None
    with pytest.raises(UsageError, match="at least 5 words"):
        nearest("only three words", str(folder / "index"))


def test_an_index_answers_without_the_dataset_and_an_old_one_with_it(
    planted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, sentences = planted
    shutil.copytree(folder / "in", tmp_path / "in")
    index = tmp_path / "index"
    build(str(tmp_path / "in"), out=str(index), map_tasks=map_here)
    known = orjson.loads((index / "find.json").read_bytes())
    for shard, (texts, _) in enumerate(known["texts"]):
        assert (index / texts).stat().st_size > 0, shard
    old = tmp_path / "old"
    shutil.copytree(index, old)
    shutil.rmtree(old / "texts")
    del known["texts"]
    (old / "find.json").write_bytes(orjson.dumps(known))
    assert find(sentences[7], str(old)) == find(sentences[7], str(index))
    shutil.rmtree(tmp_path / "in")
    assert [match.url for match in find(sentences[7], str(index))] == ["u:7"]
    with pytest.raises(DataError, match="no longer exists"):
        find(sentences[7], str(old))
