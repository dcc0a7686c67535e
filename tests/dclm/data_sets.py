"""A small dataset, its tokenizer and its recipe, made from nothing, for tests of this folder."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dclm.packing import tokenizer
from dclm.recipe import Recipe
from pipelines.records import DatasetRecord, DatasetWork, File, made_by, now, sha256_file
from pipelines.storage.base import write_bytes
from pipelines.storage.open import open_store

TEXT = """the of and to in a is that for it as was with be by on not he his but at are this have
from or had an they which one you were her all she there would their we him been has when who will
more no if out so said what up its about into than them can only other new some"""
WORDS = TEXT.split()
VOCAB = 320


def sentences(count: int, seed: int) -> list[str]:
    """Documents of 5 to 60 words in which each word makes some next words likely."""
    chance = random.Random(seed)
    documents = []
    for _ in range(count):
        index = chance.randrange(len(WORDS))
        words = []
        for _ in range(chance.randint(5, 60)):
            words.append(WORDS[index])
            index = (index * 3 + chance.randrange(4)) % len(WORDS)
        documents.append(" ".join(words) + ".")
    return documents


@cache
def trained_tokenizer() -> bytes:
    return tokenizer.train(sentences(200, seed=1), VOCAB - 1)


def tokenizer_file(folder: Path) -> Path:
    path = folder / "words.json"
    path.write_bytes(trained_tokenizer())
    return path


def recipe(folder: Path, **changes: object) -> Recipe:
    """About 50,000 parameters; 40 steps of 8 sequences of 32 tokens unless changed."""
    values = {
        "scale": "words",
        "ranked": False,
        "model": {"vocab_size": VOCAB, "dim": 32, "num_layers": 2, "num_heads": 2, "seq_len": 32},
        "tokenizer": {"name": str(tokenizer_file(folder)), "end_of_text": 0, "pad": VOCAB - 1},
        "counted_params": 50_000,
        "tokens": 40 * 8 * 32,
        "num_checkpoints": 1,
        "global_batch_size": 8,
        "learning_rate": 0.01,
        "min_learning_rate": 0.001,
        "warmup_steps": 4,
        "weight_decay": 0.033,
        "z_loss": 1e-4,
        "precision": "fp32",
        "seeds": (0, 1),
    } | changes
    return Recipe.model_validate(values)


def dataset(folder: Path, documents: list[str], *, num_files: int = 3) -> str:
    """A finished dataset of parquet files with the columns `row`, `text` and one more."""
    store = open_store(folder)
    (folder / "data").mkdir(parents=True)
    files = []
    for index in range(num_files):
        texts = documents[index::num_files]
        rows = [index << 32 | number for number in range(len(texts))]
        table = pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "text": pa.array(texts, pa.large_string()),
                "url": pa.array([f"http://example.org/{row}" for row in rows]),
            }
        )
        path = folder / "data" / f"{index:05d}.parquet"
        pq.write_table(table, path, row_group_size=50)
        files.append(
            File(
                name=f"data/{path.name}",
                sha256=sha256_file(path),
                num_bytes=path.stat().st_size,
                num_rows=len(texts),
            )
        )
    record = DatasetRecord.seal(
        work=DatasetWork(pipeline={"name": "words", "steps": []}),
        parents={"pool": "0" * 32},
        outputs=files,
        counts={"documents": len(documents)},
        made_by=made_by(now()),
    )
    write_bytes(store, "record.json", record.to_json())
    return str(folder)
