"""What the tests here share: a model whose answers can be worked out by hand, recorded cases."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from evals.models import Ids, Query, TokenScores
from evals.tasks import Task, parse_task


class FakeModel:
    """One or two ids per text; all options cost the same; a token is a favourite if it is even."""

    def __init__(self, vocab_size: int = 1000, loss: float = 2.0) -> None:
        self.id = "f" * 32
        self.settings = {"precision": "fp32", "path": "fake"}
        self.vocab_size = vocab_size
        self.document_start = 0
        self.max_length: int | None = None
        self.loss = loss
        self.num_questions = 0

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """ " a" is one token, so answers get their leading blank; other texts have one id, too."""
        return [[zlib.crc32(text.encode()) % 1000] if text else [] for text in texts]

    def detokenise(self, ids: Sequence[int]) -> str:
        return " ".join(str(id_) for id_ in ids)

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        self.num_questions += len(queries)
        return [[self._one(answer) for answer in query.continuations] for query in queries]

    def _one(self, answer: Ids) -> TokenScores:
        losses = np.full(len(answer), self.loss, dtype=np.float32)
        return TokenScores(losses, np.where(answer % 2 == 0, answer, answer + 1))

    def generate(
        self, contexts: Sequence[Ids], *, max_new_tokens: int, is_done: Callable[[str], bool]
    ) -> list[list[int]]:
        return [[4] for _ in contexts]


def write_rows(path: Path, rows: Sequence[object]) -> None:
    """Write rows as a JSONL file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def make_task(name: str = "t", **fields: Any) -> Task:
    """A task of which only what matters has to be said."""
    plain = {
        "name": name,
        "kind": "multiple_choice",
        "description": "d",
        "category": "c",
        "metric": "accuracy",
        "file": "t.jsonl",
        "licence": "MIT",
        "random_baseline": {"v1": 0.0, "v2": 0.0},
    }
    return parse_task(plain | fields, source="a test")


def over_recorded(metafunc: pytest.Metafunc, name: str, pattern: str) -> None:
    """Run a test for every recorded file that matches, or skip it visibly."""
    if name in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--fixtures")) / "dclm-eval"
        names = sorted(folder.glob(pattern))
        reason = f"no recorded results {folder / pattern}: name a folder with --fixtures DIR"
        missing = pytest.param(None, marks=pytest.mark.skip(reason=reason))
        cases = [pytest.param(path, id=path.name[:60]) for path in names] or [missing]
        metafunc.parametrize(name, cases)


def strokes(seed: int, number: int) -> np.ndarray:
    """Bright bars at one of four positions on black, (number, 1, 8, 8): images like digits."""
    rng = np.random.default_rng(seed)
    drawn = np.full((number, 1, 8, 8), -0.9, np.float32)
    for image, position in zip(drawn, rng.integers(4, size=number), strict=True):
        image[0, :, 2 * position : 2 * position + 2] = 0.8
    return (drawn + 0.05 * rng.standard_normal(drawn.shape)).astype(np.float32).clip(-1, 1)
