"""Prompts: which solved examples a question is shown, and the token ids that come of it.

The rules are those of the evaluation code behind DCLM (MosaicML's in-context learning tasks), read
from its behaviour and checked against recorded token ids. The surprising ones:

- One random stream serves a whole dataset in order, so the shots of a question depend on all
  questions before it. Asking a part of the questions must replay the stream from its start.
- Shots are shown in the iteration order of a CPython set of integers, not in the order drawn.
- Shots come from the evaluated data itself; only the question's own row is excluded.
- Shots, context and answer are tokenised one by one and then joined: no merge crosses the borders.
- The context loses its trailing blanks, and the answer gets one leading blank instead, if the
  tokenizer has a token for a blank with a letter.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cached_property
from itertools import chain

import numpy as np

from evals.items import Item
from evals.models import Encoder, Ids
from evals.tasks import LanguageTask

FEWSHOT_SEED = 1234  # the reference's
EXAMPLE_DELIMITER = "\n"


def draw_shots(num_items: int, num_shots: int, *, seed: int = FEWSHOT_SEED) -> list[list[int]]:
    """For every item, the positions of the items shown before it, in the order shown."""
    rng = random.Random(seed)
    positions = range(num_items)
    num_drawn = min(num_items - 1, num_shots)
    drawn = []
    for index in positions:
        # The order of a set of small integers is a function of the operations on it in CPython,
        # so it can be relied on here, and must be: the recorded prompts have it.
        shots = set(rng.sample(positions, num_drawn))
        shots.discard(index)
        while len(shots) < num_drawn:
            other = rng.choice(positions)
            if other != index:
                shots.add(other)
        drawn.append(list(shots))
    return drawn


def shot_text(task: LanguageTask, item: Item) -> str:
    """One solved example."""
    return f"{task.prelimiter}{_solved_context(item)}{task.delimiter}{solution(task, item)}"


def _solved_context(item: Item) -> str:
    if item.contexts:
        assert item.gold is not None
        return item.contexts[item.gold]
    return item.context


def solution(task: LanguageTask, item: Item) -> str:
    """The right answer as a shot shows it, after its chain of thought where there is one."""
    if item.options:
        assert item.gold is not None
        return item.options[item.gold]
    if item.reasoning:
        return f"{item.reasoning}{task.cot_delimiter}{item.answer}"
    return item.answer


def question_texts(task: LanguageTask, item: Item, *, after_shots: bool) -> tuple[str, ...]:
    """The contexts of a question, one for all options or, in a schema, one for each."""
    newline = EXAMPLE_DELIMITER if after_shots else ""
    if not item.contexts:
        return (f"{newline}{task.prelimiter}{item.context}{task.delimiter}".rstrip(),)
    if not after_shots:  # a schema without shots has neither prelimiter nor delimiter
        return tuple(context.rstrip() for context in item.contexts)
    before = f"{task.prelimiter}{newline}"
    return tuple(f"{before}{context}{task.delimiter}".rstrip() for context in item.contexts)


def takes_leading_space(encoder: Encoder) -> bool:
    """Whether the tokenizer writes a blank and a letter as one token."""
    return len(encoder.tokenise([" a"])[0]) == 1


def answer_texts(item: Item, *, leading_space: bool) -> tuple[str, ...]:
    """The texts that are scored, one for each option; the contexts of a schema share one answer."""
    answers = item.options or (item.answer,) * max(1, len(item.contexts))
    if not leading_space:
        return answers
    return tuple(text if text.startswith(" ") else f" {text}" for text in answers)


def trim(context: Sequence[int], answer_length: int, window: int) -> Sequence[int]:
    """The end of `context` that leaves room for the answer in the window.

    As in the reference an answer that fills the window exactly leaves the context whole (a slice
    from minus zero); whoever asks a question refuses that case. ValueError for a longer answer.
    """
    if answer_length > window:
        raise ValueError(f"an answer of {answer_length} tokens, longer than the window {window}")
    return context[-(window - answer_length) :]


def as_ids(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int32)


class PromptTokens:
    """Token ids of shots, contexts and answers of one task, for one tokenizer.

    A block of shots is one text to the tokenizer. Where a probe shows that the tokenizer always
    splits at the newline before a shot, each item is tokenised once and the pieces are joined.
    """

    def __init__(self, task: LanguageTask, items: Sequence[Item], encoder: Encoder) -> None:
        self.task = task
        self.items = items
        self.encoder = encoder
        self.leading_space = takes_leading_space(encoder)
        self._texts: dict[int, str] = {}
        self._pieces: dict[tuple[int, bool], list[int]] = {}
        self._can_join = _splits_at_newline(encoder)

    def shots(self, blocks: Sequence[Sequence[int]]) -> list[list[int]]:
        """The ids of each block of shots, given by the positions of its items."""
        texts = self._texts
        for index in set(chain(*blocks)) - texts.keys():
            texts[index] = shot_text(self.task, self.items[index])
        joined = [
            self._can_join and all(texts[index] == texts[index].strip() for index in block)
            for block in blocks
        ]
        self._tokenise_pieces(blocks, texts, joined)
        whole = [
            EXAMPLE_DELIMITER.join(texts[index] for index in block)
            for block, join in zip(blocks, joined, strict=True)
            if not join
        ]
        rest = iter(self.encoder.tokenise(whole))
        return [self._join(b) if j else next(rest) for b, j in zip(blocks, joined, strict=True)]

    def _tokenise_pieces(
        self, blocks: Sequence[Sequence[int]], texts: dict[int, str], joined: Sequence[bool]
    ) -> None:
        needed = {
            (index, position > 0)
            for block, join in zip(blocks, joined, strict=True)
            if join
            for position, index in enumerate(block)
        }
        new = sorted(needed - self._pieces.keys())
        pieces = [EXAMPLE_DELIMITER * after + texts[index] for index, after in new]
        self._pieces.update(zip(new, self.encoder.tokenise(pieces), strict=True))

    def _join(self, block: Sequence[int]) -> list[int]:
        return list(
            chain.from_iterable(self._pieces[i, position > 0] for position, i in enumerate(block))
        )

    @cached_property
    def drawn(self) -> list[list[int]]:
        """The shots of every item."""
        return draw_shots(len(self.items), self.task.shots)

    @cached_property
    def longest_solution(self) -> int:
        """The most tokens that any accepted answer has, with its chain of thought."""
        texts = []
        for item in self.items:
            prefix = f"{item.reasoning}{self.task.cot_delimiter}" if item.reasoning else ""
            texts += [f"{prefix}{answer}" for answer in (item.answer, *item.aliases)]
        return max(len(ids) for ids in self.encoder.tokenise(texts))


_PROBES = (
    "Question: What is 3 + 4?",
    "The cat's 2nd  nap.",
    "« été » — naïve",
    "x = y[1];",
    "(a) 東京",
    '"Yes,"',
    "12,345.6%",
    "a   b",
    "it's",
    "__init__ #42!",
)


def _splits_at_newline(encoder: Encoder) -> bool:
    """Whether tokenising around "\\n" piece by piece gives the ids of the whole, for all probes."""
    for first in _PROBES:
        for second in _PROBES:
            whole, left, right = encoder.tokenise([f"{first}\n{second}", first, f"\n{second}"])
            if whole != left + right:
                return False
    return True
