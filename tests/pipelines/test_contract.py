"""Every registered operator keeps what every operator promises."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import contract
from pipelines.assets.catalogue import AssetError, Assets
from pipelines.batch import Batch
from pipelines.image_text.feature_head import Head, head_bytes
from pipelines.operators import Fold, Operator
from pipelines.registry import build, registry

ASKED = {
    "url": "http://127.0.0.1:9/",
    "model": "none",
    "prompt": "{text}",
    "cache": "/nowhere",
    "tries": 1,
}
NEEDED: dict[str, dict[str, Any]] = {
    "attribute_score": {"attribute": "q__q__score"},
    "clip_score": {"min_score": 0.2},
    "contamination_scores": {"items": "items.parquet"},
    "decontaminate": {"items": "items.parquet", "ngram": 2},
    "decontaminate_similar": {"items": "items.parquet"},
    "domains": {"hosts": ["example.com"]},
    "embedding_dedup": {"centroids": "centroids.npy"},
    "feature_score": {"model": "head.npz", "features": ["l14_img"]},
    "hash_sample": {"fraction": 0.5},
    "language_from_scores": {"keep": ["en"], "field": "scores"},
    "letters_per_token": {"tokenizer": "tiny-bpe.json"},
    "noise_level": {"of_level": 2.0},
    "near_targets": {"centroids": "centroids.npy", "targets": "centroids.npy"},
    "mark_contamination": {"items": "items.parquet", "ngram": 2},
    "model_perplexity": {"model": "none"},
    "model_score": {"model": "none"},
    "prompt_score": ASKED,
    "rephrase": ASKED,
    "scores": {"of": "quality"},
    "chosen_rows": {"of": "folder"},
    "score_columns": {"of": "folder", "columns": {"quality": "double"}},
    "only_scores": {"pool": "0" * 16, "drop": ["text"]},
    "quality_score": {"model": "tiny-quality.bin"},
    "quality_scores": {"models": {"first": "tiny-quality.bin", "second": "tiny-quality.bin"}},
    "select": {"by": "quality", "fraction": 0.5, "missing": "drop"},
    "soft_cap": {"by": "clip_l14_similarity_score", "total": 5, "most": 3},
    "substring_lines": {"phrases": ["cat", "one"]},
    "substrings": {"phrases": ["cat", "one"]},
    "threshold": {"by": "quality", "min_score": 0.2, "max_score": 0.9},
    "token_count": {"tokenizer": "tiny-bpe.json"},
    "url_substrings": {"phrases": ["example"]},
    "url_words": {"words": ["casino"]},
    "value_counts": {"by": "quality"},
    "words_removed": {"before": "words"},
}
"""Parameters of the operators that have required ones."""


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """Small files of the right kind for operators that need some."""
    from pipelines.text.quality import ClassifierRecipe, train_classifier

    folder = tmp_path_factory.mktemp("assets")
    recipe = ClassifierRecipe(dim=4, epochs=2, min_count=1, buckets=100)
    good = ["a long and thoughtful sentence about history", "the river runs to the sea"] * 5
    other = ["buy cheap pills now", "click here click here"] * 5
    train_classifier(good, other, recipe=recipe, out=folder / "tiny-quality.bin")
    (folder / "lid.176.ftz").write_bytes((folder / "tiny-quality.bin").read_bytes())
    (folder / "iana_tlds.txt").write_text("com\norg\n")
    items = {"task": ["a"], "item": [0], "text": ["one two three four five six seven eight"]}
    pq.write_table(pa.table(items), folder / "items.parquet")
    np.save(folder / "centroids.npy", np.eye(4, dtype=np.float32))
    head = Head(("l14_img",), (np.ones((1, 4), np.float32),), (np.zeros(1, np.float32),))
    (folder / "head.npz").write_bytes(head_bytes(head))
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tiny-bpe.json"))
    return Assets(folders=(Path(folder),))


@pytest.mark.parametrize("name", sorted(registry()))
def test_keeps_every_promise(name: str, assets: Assets) -> None:
    if name in ("prompt_score", "rephrase"):
        pytest.skip("asks a server")
    cls = registry()[name]
    operator: Operator = build(cls, NEEDED.get(name, {}), where="test")
    assert not isinstance(operator, Fold) or operator.groups == 1
    try:
        operator.load(assets)
    except (AssetError, ValueError) as error:
        if isinstance(error, AssetError) or "pip install" in str(error):  # an optional package
            pytest.skip(str(error))
        raise
    assert contract.check(operator) == []


MEGABYTE = 1_000_000
HOSTILE = {
    "base64": "QmFzZTY0IGlzIG5vdCBwcm9zZS4+/",
    "dots": "a.",
    "one word": "a",
    "one line": "word ",
    "newlines": "\n",
    "signs": "@",
    "spaces": " ",
    "tabs and newlines": "\t\n",
    "digits": "1234567890",
    "addresses": "x@y.",
    "brackets": "[[((",
    "tags": "<b><a href='",
    "latex": "\\begin{a}{$",
    "latex that never closes": "\\def\\a{\\section[",
    "comments that never end": "<!-- \\begin{comment}",
    "marks": "\u0301",
    "ideographs": "\u65e5",
    "lines of one letter": "a\n",
    "links": "http://",
    "braces": "{}",
    "question": "Q: A: ",
    "quotes": "\"'",
    "points": ".",
    "points and blanks": ". ",
    "points and quotes": '."',
    "initials": "A..",
    "questions": "?!\n",
}


def hostile_text(kind: str, size: int) -> str:
    """A megabyte of one thing, and at its end something that an expression may look for."""
    unit = HOSTILE[kind]
    return unit * (size // len(unit.encode())) + "x@y.zz http://a.b/c"


def cpu_seconds(operator: Operator, text: str) -> float:
    columns: dict[str, Any] = {
        "row": [0],
        "text": [text],
        "url": ["https://www.example.org/x"],
        "language": ["en"],
        "language_probability": [0.9],
        "num_tokens": [3],
        "quality": [0.5],
        "words": [3],
        "extra": [
            '{"scores": {"en": 0.9}, "q__q__score": 0.5, "metadata": {"WARC-Target-URI": "http://a.b"}}'
        ],
    }
    table = pa.table(
        columns,
        schema=pa.schema(
            [
                (name, pa.large_string() if isinstance(value[0], str) else pa.array(value).type)
                for name, value in columns.items()
            ]
        ),
    )
    batch = Batch(table)
    started = time.process_time()
    (operator.reject if operator.kind == "filter" else operator.modify)(batch)  # type: ignore[attr-defined]
    return time.process_time() - started


SECONDS_PER_MEGABYTE = 1.0
"""The slowest takes two thirds of it on a busy machine."""


def variants(cls: type[Operator], given: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters given, and for each field with named choices, each other choice."""
    settings = [given]
    for name, field in cls.model_fields.items():
        if get_origin(field.annotation) is Literal and name not in given:
            choices = get_args(field.annotation)
            settings += [{**given, name: choice} for choice in choices if choice != field.default]
    return settings


def slow_texts(operator: Operator) -> dict[str, str]:
    """The kinds of text of which a megabyte takes too long, best of three."""
    slow = {}
    for kind in HOSTILE:
        text = hostile_text(kind, MEGABYTE)
        try:
            seconds = cpu_seconds(operator, text)
            for _ in range(2):
                if seconds > SECONDS_PER_MEGABYTE:  # other threads of the process may have run
                    seconds = min(seconds, cpu_seconds(operator, text))
        except ValueError:
            continue  # refused, as with `newlines: error`
        if seconds > SECONDS_PER_MEGABYTE:
            slow[kind] = f"{seconds:.1f} s a megabyte"
    return slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(n for n, cls in registry().items() if cls.kind in ("filter", "modifier"))
)
def test_a_megabyte_of_anything_takes_less_than_a_second(name: str, assets: Assets) -> None:
    if name in ("prompt_score", "rephrase"):
        pytest.skip("asks a server")
    cls, measured, reason = registry()[name], 0, "reads no text"
    for given in variants(cls, NEEDED.get(name, {})):
        try:
            operator: Operator = build(cls, given, where="test")
            if operator.reads() and "text" not in (*operator.reads(), *operator.optional_reads()):
                continue
            operator.load(assets)
            cpu_seconds(operator, "compiles what is compiled\n")
        except (AssetError, KeyError, ValueError) as error:
            # Choices that need others, optional packages, fields that this page lacks.
            reason = str(error)[:120]
            continue
        measured += 1
        assert slow_texts(operator) == {}, given
    if not measured:
        pytest.skip(reason)


def test_the_checks_catch_a_careless_operator() -> None:
    import random

    from pydantic import Field

    from pipelines.operators import Filter

    class Careless(Filter):
        """short"""

        chance: float = Field(0.5)
        reasons = ("one",)

        def reads(self) -> tuple[str, ...]:
            return ("text",)

        def reject(self, batch: Batch) -> pa.Array:
            return pa.array([random.choice([None, "two"]) for _ in range(batch.num_rows + 1)])

    promises = {problem.promise for problem in contract.check(Careless(chance=0.5))}
    assert len(promises) >= 4, promises
