"""Controls of an evaluation: what is left of a score when the information it needs is removed.

    context swapped    a question is asked after the context of another (choices, generation)
    options rotated    the same options in another order: nothing should be lost
    images shuffled    each image is given the label or the captions of another (from the log alone)
    captions shuffled  the same for the texts of a retrieval task
    measurements swapped  an image is restored from the measurements of another one; the score is
                       the fraction of images that are nearer than without a model

The questions are sampled by the hash of the data and the row, so that nobody can select them.
A drop whose 95% interval contains zero means: this score does not use the context (or the image).
`check_probabilities` requests the whole distribution at a few positions: it must sum to 1 and agree
with what is scored there. Scores per byte need a tokenizer that leaves nothing of the text out.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from evals.items import Item, TaskData
from evals.kinds import kind_of
from evals.models import Distributions, Ids, LanguageModel, ModelError, Query, TokenScores
from evals.tasks import PER_BYTE, AnswerLossTask, LanguageTask, RestorationTask, Task
from evals.text.language import Prompts
from evals.text.prompts import as_ids
from evals.text.token_loss import mask_sequence
from pipelines.records import Control

SAMPLE = 64  # questions per control; a drop of 0.2 in accuracy is detected with about 95%
GENERATED = 16  # questions; generation and restoration cost a hundred times a choice
POSITIONS = 2  # per task, where probabilities are summed
SUM_TOLERANCE = 1e-3  # float32 exponentials over a vocabulary of 50,000
LOSS_TOLERANCE = 0.1  # nats between two ways to one loss in bf16; fp32 agrees to 1e-4
TWO_SIDED = 1.959964  # the normal's 97.5% point
PREFIX = 64  # tokens of a document in front of a checked position
READ_BACK = 64  # texts that are tokenised and read back
LEAST_READ_BACK = 0.98
"""Share of the letters of those texts. Lower case alone loses one English letter in 30 and more;
rare signs without a token are fewer."""
SPECIAL = re.compile(r"<[^<>\s]{1,40}>|\[[A-Z]{2,10}\]")  # <|endoftext|>, <s>, [UNK]


def chosen_rows(data: TaskData, number: int, *, what: str) -> list[int]:
    """`number` rows chosen by hash of the data's identity and the row, ascending."""
    return hashed_rows(data.identity, data.num_rows, number, what=what)


def hashed_rows(identity: str, num_rows: int, number: int, *, what: str) -> list[int]:
    """The same from the identity alone, for checking a log without the data."""

    def key(row: int) -> bytes:
        return hashlib.sha256(f"{what} {identity} {row}".encode()).digest()

    return sorted(sorted(range(num_rows), key=key)[:number])


def controls_of(
    task: Task, data: TaskData, model: Any, *, window: int, log: pa.Table
) -> list[Control]:
    """The controls of one task; none for kinds without anything to remove (perplexity)."""
    if isinstance(task, RestorationTask):
        return _restoration_controls(task, data, model, log)
    if task.kind.startswith("image_"):
        return image_controls(task, log)
    if task.kind not in ("multiple_choice", "schema", "language_modeling", "generation"):
        return []
    number = GENERATED if task.kind == "generation" else SAMPLE
    rows = chosen_rows(data, number, what="control")
    if len(rows) < 2:
        return []
    own = _credits(task, log, rows)
    swapped = _asked(task, data, rows, _swapped(task, data.items, rows), model, window)
    controls = [_control(task, "context swapped", own, swapped)]
    if task.kind == "multiple_choice":
        rotated = [_rotated(data.items[row]) for row in rows]
        controls.append(
            _control(task, "options rotated", own, _asked(task, data, rows, rotated, model, window))
        )
    return controls


def _asked(
    task: Task,
    data: TaskData,
    rows: Sequence[int],
    changed: Sequence[Item],
    model: Any,
    window: int,
) -> npt.NDArray[np.float64]:
    """The credit of each changed question, asked in place of the original one."""
    items = list(data.items)
    for row, item in zip(rows, changed, strict=True):
        items[row] = item
    answer = kind_of(task).answer(
        task, TaskData(tuple(items), data.sha256, data.verified), rows, model, window=window
    )
    return _credits(task, answer, rows)


def _credits(task: Task, log: pa.Table, rows: Sequence[int]) -> npt.NDArray[np.float64]:
    earned = kind_of(task).tally(task, log).numerator
    position = {row: number for number, row in enumerate(log["row"].to_pylist())}
    return np.array([earned[position[row]] for row in rows])


def _swapped(task: Task, items: Sequence[Item], rows: Sequence[int]) -> list[Item]:
    """Each question after the context of the next one; a schema gets its continuation."""
    others = [items[row] for row in (*rows[1:], rows[0])]
    own = [items[row] for row in rows]
    if task.kind == "schema":
        return [replace(a, answer=b.answer) for a, b in zip(own, others, strict=True)]
    return [
        replace(a, context=b.context or a.context, reasoning=b.reasoning)
        for a, b in zip(own, others, strict=True)
    ]


def _rotated(item: Item) -> Item:
    assert item.gold is not None
    count = len(item.options)
    return replace(item, options=(*item.options[1:], item.options[0]), gold=(item.gold - 1) % count)


def _restoration_controls(
    task: RestorationTask, data: TaskData, model: Any, log: pa.Table
) -> list[Control]:
    rows = chosen_rows(data, GENERATED, what="control")
    if len(rows) < 2:
        return []
    kind: Any = kind_of(task)
    position = {row: number for number, row in enumerate(log["row"].to_pylist())}
    unaided = log["unaided"].to_numpy()[[position[row] for row in rows]]
    other = (kind.swapped(task, data, rows, model) < unaided).astype(np.float64)
    return [_control(task, "measurements swapped", nearer(log)[[position[r] for r in rows]], other)]


def nearer(log: pa.Table) -> npt.NDArray[np.float64]:
    """1 where a restored image is nearer than the zero-filled one."""
    return np.asarray(log["error"].to_numpy() < log["unaided"].to_numpy(), np.float64)


def image_controls(task: Task, log: pa.Table) -> list[Control]:
    """Controls computed from the log alone, so that anyone with the log can recompute them."""
    if task.kind == "image_classification":
        gold, predicted = log["gold"].to_numpy(), log["predicted"].to_numpy()
        right = (predicted == gold).astype(np.float64)
        if len(gold) < 2:
            return []
        other = _of_next(task, gold, predicted)
        return [_control(task, "images shuffled", right, other)]
    if task.kind != "image_retrieval":
        return []
    side = log["side"].to_numpy(zero_copy_only=False) == "text"
    gold, predicted = log["gold"].to_numpy()[side], log["predicted"].to_numpy()[side]
    if len(gold) < 2:
        return []
    right = (log["rank"].to_numpy()[side] == 0).astype(np.float64)
    return [_control(task, "captions shuffled", right, _of_next(task, gold, predicted))]


def _of_next(
    task: Task, gold: npt.NDArray[Any], predicted: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """1 where an answer equals the right one of the next question, in an order by hash."""
    hashes = [hashlib.sha256(f"{task.name} {row}".encode()).digest() for row in range(len(gold))]
    order = np.array(sorted(range(len(gold)), key=hashes.__getitem__))
    earned = np.empty(len(gold))
    earned[order] = predicted[order] == np.roll(gold[order], 1)
    return earned


def _control(
    task: Task, name: str, own: npt.NDArray[np.float64], other: npt.NDArray[np.float64]
) -> Control:
    """The drop with its 95% interval, paired over the questions.

    With n questions whose answers never differ, the true drop may still be up to 3 / n (the rule of
    three), so an interval is never a point.
    """
    apart = own - other
    error = float(apart.std(ddof=1)) / math.sqrt(len(apart))
    reach = max(TWO_SIDED * error, 3 / len(apart))
    drop = float(apart.mean())
    return Control.model_validate(
        {
            "task": task.name,
            "name": name,
            "num_items": len(own),
            "score": float(own.mean()),
            "control": float(other.mean()),
            "drop": drop,
            "low": drop - reach,
            "high": drop + reach,
        }
    )


# ---- probabilities


def check_probabilities(task: Task, data: TaskData, model: Any, *, window: int) -> int:
    """Sum the model's probabilities at a few positions of a task; returns how many.

    The distribution must sum to 1, its loss of the next token must be the one that `score` gives,
    and the likeliest token must be the same whatever the continuation that is scored. 0 for tasks
    over images, and for models without distributions. ModelError names the position that fails.
    """
    if task.kind.startswith("image_") or not isinstance(model, Distributions):
        return 0
    assert isinstance(model, LanguageModel)
    if task.kind in PER_BYTE:
        _check_read_back(task, data, model)
    places = []
    for row in chosen_rows(data, POSITIONS, what="probabilities"):
        places += [(row, *position) for position in _place(task, data, row, model, window)]
    if not places:
        return 0
    distributions = model.next_losses([context for _, context, _ in places])
    # A second token, so that an answer which is repeated as the likeliest one shows.
    pairs = [(token, (token + 1) % model.vocab_size) for _, _, token in places]
    asked = model.score(
        [
            Query(context, tuple(as_ids([token]) for token in pair))
            for (_, context, _), pair in zip(places, pairs, strict=True)
        ]
    )
    for (row, _, _), pair, losses, scores in zip(places, pairs, distributions, asked, strict=True):
        if problem := _place_fault(pair, losses, scores):
            raise ModelError(f"task {task.name}, row {row}: {problem}")
    return len(places)


def _place_fault(
    pair: tuple[int, int], losses: npt.NDArray[np.float32], scores: Sequence[TokenScores]
) -> str | None:
    """How a model's distribution at a position and its scores of two next tokens disagree."""
    total = float(np.exp(-losses.astype(np.float64)).sum())
    if not abs(total - 1) <= SUM_TOLERANCE:
        return (
            f"the model's probabilities of the next token sum to {total:.6g} over {len(losses)} "
            "ids, not to 1; its losses are not cross-entropies"
        )
    scored = float(scores[0].losses[0])
    if not abs(float(losses[pair[0]]) - scored) <= LOSS_TOLERANCE:
        return (
            f"the model gives a loss of {scored:.6g} where its own probabilities say "
            f"{float(losses[pair[0]]):.6g}"
        )
    likeliest = [int(score.greedy[0]) for score in scores]
    if tuple(likeliest) == pair:
        return (
            f"the model calls both {pair[0]} and {pair[1]} the likeliest next token of one "
            "context, each when it is asked about it; it repeats the answer"
        )
    for token in likeliest:
        if not float(losses[token]) - float(losses.min()) <= 2 * LOSS_TOLERANCE:  # of two losses
            return (
                f"the model calls {token} the likeliest next token, but its own probabilities say "
                f"{int(losses.argmin())}"
            )
    return None


def _check_read_back(task: Task, data: TaskData, model: LanguageModel) -> None:
    """ModelError when a part of the text is not in the tokens, so that no loss is paid for it.

    Blanks, forms of a letter that NFKC takes for one, and what may be the name of a special token
    do not count: tokenizers change or skip them.
    """
    rows = chosen_rows(data, READ_BACK, what="read back")
    texts = [data.items[row].text() for row in rows]
    whole, kept, worst = 0, 0, (1.0, 0)
    for row, text, ids in zip(rows, texts, model.tokenise(texts), strict=True):
        letters, back = _letters(text), _letters(model.detokenise(ids))
        same = (letters & back).total()
        whole, kept = whole + letters.total(), kept + same
        worst = min(worst, (same / max(1, letters.total()), row))
    if kept < LEAST_READ_BACK * whole:
        raise ModelError(
            f"task {task.name}, row {worst[1]}: only {100 * worst[0]:.0f}% of the text's letters "
            f"can be read back from the model's tokens ({100 * kept / whole:.0f}% over {len(rows)} "
            "texts); bits per byte are of the whole text, so its tokenizer has to keep all of it"
        )


def _letters(text: str) -> Counter[str]:
    plain = SPECIAL.sub("", unicodedata.normalize("NFKC", text))
    return Counter("".join(plain.split()))


def _place(
    task: Task, data: TaskData, row: int, model: LanguageModel, window: int
) -> list[tuple[Ids, int]]:
    """A context of a row and the token that follows it; empty if nothing follows."""
    item = data.items[row]
    if task.kind == "perplexity":
        ids = model.tokenise([item.context])[0][: min(PREFIX, window)]
        return [(as_ids([model.document_start, *ids[:-1]]), int(ids[-1]))]
    if task.kind == "token_loss":
        fed, scored = mask_sequence(
            item.ids, mask_left=task.mask_left, mask_single=task.mask_single
        )
        places = np.flatnonzero(scored)
        return [(fed[: places[0]], int(fed[places[0]]))] if len(places) else []
    if isinstance(task, AnswerLossTask):
        task = task.question()
    assert isinstance(task, LanguageTask)
    [request] = Prompts(task, data.items, model).requests([row], window=window)
    option = request.options[0]
    return [(option.context, int(option.answer[0] if len(option.answer) else option.context[-1]))]
