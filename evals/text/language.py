"""Language tasks: multiple choice, schema, language modelling, generation.

    items --requests--> contexts and answers as token ids --model--> losses --> right or wrong

Multiple choice and schema take the option with the lowest mean loss per token, the first one among
equals. Language modelling is right when every answer token is the model's first choice.
Generation is right when the normalised text starts with a normalised label. Prompts and rules are
DCLM's; see `evals.text.prompts` and `evals.metrics`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evals.items import Item, Tally, TaskData, category_field, gold_field, text_field, texts_field
from evals.kinds import Kind, read_data
from evals.metrics import (
    best_option,
    clean_generation,
    credit,
    generation_is_right,
    normalise_answer,
)
from evals.models import (
    Encoder,
    Ids,
    LanguageModel,
    ModelError,
    Query,
    TokenScores,
    as_encoder,
    loss_fault,
)
from evals.tasks import LanguageTask
from evals.text.prompts import PromptTokens, answer_texts, as_ids, question_texts, trim
from pipelines.errors import DataError

WINDOW = 2048  # tokens, as DCLM's models read
ANSWER_MARGIN = 10  # tokens a generation may run past the longest known chain of thought


@dataclass(frozen=True)
class Option:
    """A context as it is fed, and the answer that is scored after it (empty for generation)."""

    context: Ids
    answer: Ids

    @property
    def ids(self) -> Ids:
        return np.concatenate([self.context, self.answer])

    @property
    def span(self) -> tuple[int, int]:
        """Where the answer is in `ids`: begin and end."""
        return len(self.context), len(self.context) + len(self.answer)


@dataclass(frozen=True)
class Request:
    """One question as a model is asked it.

    `row` is the row of the data file, `index` the position within the category (or the file, when
    the task is not split), `shots` the positions of the shown examples within the same.
    """

    row: int
    index: int
    category: str | None
    shots: tuple[int, ...]
    options: tuple[Option, ...]
    max_new_tokens: int = 0

    def digest(self) -> str:
        """16 hexadecimal digits over the int32 ids and span of every option."""
        state = hashlib.sha256()
        for option in self.options:
            state.update(option.ids.astype("<i4").tobytes())
            state.update(np.asarray(option.span, dtype="<i4").tobytes())
        return state.hexdigest()[:16]

    def query(self) -> list[Query]:
        """What to ask a model: options that share a context go together."""
        shared: dict[int, list[Ids]] = {}
        contexts: dict[int, Ids] = {}
        for option in self.options:
            contexts[id(option.context)] = option.context
            shared.setdefault(id(option.context), []).append(option.answer)
        return [Query(contexts[key], tuple(answers)) for key, answers in shared.items()]


def requests(
    task: LanguageTask, data: Path, tokenizer: Any, *, window: int = WINDOW
) -> Iterator[Request]:
    """The requests of a whole task, in order: by category (sorted), then as in the file.

    `data` is a folder in the reference's layout, `tokenizer` a `tokenizers.Tokenizer` or any
    object with `tokenise`. Contexts are cut on the left to fit `window` tokens with the answer.
    """
    items = read_data(task, data).items
    prompts = Prompts(task, items, as_encoder(tokenizer))
    order = ask_order(task, items)
    for start in range(0, len(order), 512):
        yield from prompts.requests(order[start : start + 512], window=window)


def ask_order(task: LanguageTask, items: Sequence[Item]) -> list[int]:
    """Positions of the items in the order they are asked: by category, then as in the file."""
    if not task.by_category:
        return list(range(len(items)))
    return sorted(range(len(items)), key=lambda index: (items[index].category or "", index))


class Prompts:
    """The requests of one task for one tokenizer; what is tokenised once is kept."""

    def __init__(self, task: LanguageTask, items: Sequence[Item], encoder: Encoder) -> None:
        members: dict[str | None, list[int]] = {}
        self._place: dict[int, tuple[str | None, int]] = {}
        for row in ask_order(task, items):
            rows = members.setdefault(items[row].category, [])
            self._place[row] = (items[row].category, len(rows))
            rows.append(row)
        self._tokens = {
            category: PromptTokens(task, [items[row] for row in rows], encoder)
            for category, rows in members.items()
        }

    def requests(self, rows: Sequence[int], *, window: int) -> list[Request]:
        """The requests of the items at positions `rows`, the same ones whatever else is asked."""
        rows_of: dict[str | None, list[int]] = {}
        for row in rows:
            category, index = self._place[row]
            rows_of.setdefault(category, []).append(index)
        built = {
            (category, request.index): replace(request, category=category)
            for category, indices in rows_of.items()
            for request in _part_requests(self._tokens[category], indices, window)
        }
        return [built[self._place[row]] for row in rows]


@lru_cache(maxsize=2)
def kept_prompts(task: LanguageTask, data: TaskData, encoder: Encoder) -> Prompts:
    """The prompts of a task, for chunk after chunk of it."""
    return Prompts(task, data.items, encoder)


def _part_requests(tokens: PromptTokens, chosen: Sequence[int], window: int) -> Iterator[Request]:
    task, items = tokens.task, tokens.items
    shots = tokens.drawn
    blocks = tokens.shots([shots[index] for index in chosen])
    contexts = tokens.encoder.tokenise(
        [t for i in chosen for t in question_texts(task, items[i], after_shots=bool(shots[i]))]
    )
    generates = task.kind == "generation"
    answers: Iterator[list[int]] = iter(())
    max_new_tokens = 0
    if generates:
        max_new_tokens = tokens.longest_solution + ANSWER_MARGIN * bool(task.cot_delimiter)
    else:
        leading = partial(answer_texts, leading_space=tokens.leading_space)
        answers = iter(tokens.encoder.tokenise([t for i in chosen for t in leading(items[i])]))
    asked = iter(contexts)
    start = list(getattr(tokens.encoder, "prompt_start", ()))
    for index, block in zip(chosen, blocks, strict=True):
        item = items[index]
        own = [start + block + next(asked) for _ in item.contexts or (None,)]
        if generates:
            options: tuple[Option, ...] = (_option(task, item, own[0], [], max_new_tokens, window),)
        else:
            given = [next(answers) for _ in item.options or item.contexts or (None,)]
            pairs = zip(own * (len(given) // len(own)), given, strict=True)
            options = tuple(_option(task, item, c, a, len(a), window) for c, a in pairs)
        yield Request(
            row=item.row,
            index=index,
            category=None,
            shots=tuple(shots[index]),
            options=_share_contexts(options),
            max_new_tokens=max_new_tokens,
        )


def _option(
    task: LanguageTask, item: Item, context: list[int], answer: list[int], room: int, window: int
) -> Option:
    where = f"task {task.name}, row {item.row}"
    if not context:
        raise DataError(f"{where}: the context is empty, so there is nothing to score after")
    if not answer and task.kind != "generation":
        raise DataError(f"{where}: an answer has no tokens")
    if room >= window:
        raise DataError(
            f"{where}: an answer of {room} tokens leaves no context in a window of {window}"
        )
    return Option(as_ids(trim(context, room, window)), as_ids(answer))


def _share_contexts(options: tuple[Option, ...]) -> tuple[Option, ...]:
    """The same options, with equal contexts being one array."""
    known: dict[bytes, Ids] = {}
    return tuple(
        Option(known.setdefault(option.context.tobytes(), option.context), option.answer)
        for option in options
    )


LOG = pa.schema(
    [
        ("row", pa.int64()),
        ("index", pa.int64()),
        ("category", pa.string()),
        ("shots", pa.list_(pa.int32())),
        ("contexts", pa.list_(pa.list_(pa.int32()))),
        (
            "options",
            pa.list_(
                pa.struct(
                    [
                        ("context", pa.int32()),
                        ("ids", pa.list_(pa.int32())),
                        ("losses", pa.list_(pa.float32())),
                        ("greedy", pa.list_(pa.int32())),
                        ("mean_loss", pa.float32()),
                    ]
                )
            ),
        ),
        ("generated", pa.string()),
        ("predicted", pa.int32()),
        ("gold", pa.int32()),
        ("correct", pa.bool_()),
        ("credit", pa.float64()),
    ]
)


@dataclass(frozen=True)
class LanguageKind(Kind[LanguageTask]):
    """A kind of task that is asked of a LanguageModel; `name` says which."""

    name: str

    def item(self, row: Mapping[str, Any], index: int, task: LanguageTask) -> Item:
        category = category_field(row, task)
        if self.name == "multiple_choice":
            options = texts_field(row, "choices")
            _at_least_two("choices", options)
            return Item(
                row=index,
                category=category,
                context=text_field(row, "query", empty=True),
                options=options,
                gold=gold_field(row, len(options)),
            )
        if self.name == "schema":
            contexts = texts_field(row, "context_options")
            _at_least_two("context_options", contexts)
            return Item(
                row=index,
                category=category,
                contexts=contexts,
                answer=text_field(row, "continuation"),
                gold=gold_field(row, len(contexts)),
            )
        context = text_field(row, "context", empty=True)
        if self.name == "language_modeling":
            answer = text_field(row, "continuation")
            return Item(row=index, category=category, context=context, answer=answer)
        return Item(
            row=index,
            category=category,
            context=context,
            answer=text_field(row, "answer"),
            aliases=texts_field(row, "aliases") if "aliases" in row else (),
            reasoning=text_field(row, "chain_of_thought") if "chain_of_thought" in row else "",
        )

    def answer(
        self,
        task: LanguageTask,
        data: TaskData,
        rows: Sequence[int],
        model: LanguageModel,
        *,
        window: int,
    ) -> pa.Table:
        asked = kept_prompts(task, data, model).requests(rows, window=window)
        for request in asked:
            check_vocabulary(task.name, request, model)
        chosen = [data.items[row] for row in rows]
        if self.name == "generation":
            entries = _generate(task, chosen, asked, model)
        else:
            entries = self._score(task, chosen, asked, model)
        log = pa.Table.from_pylist(entries, schema=LOG)
        return _without_text(log) if task.secret else log

    def _score(
        self,
        task: LanguageTask,
        items: Sequence[Item],
        asked: Sequence[Request],
        model: LanguageModel,
    ) -> list[dict[str, Any]]:
        queries = [request.query() for request in asked]
        scores = iter(model.score([query for group in queries for query in group]))
        entries = []
        for item, request, group in zip(items, asked, queries, strict=True):
            by_context = {id(query.context): iter(next(scores)) for query in group}
            given = [next(by_context[id(option.context)]) for option in request.options]
            _check_losses(task, request, given)
            entries.append(self._entry(item, request, given))
        return entries

    def _entry(self, item: Item, request: Request, given: Sequence[TokenScores]) -> dict[str, Any]:
        means = [np.float32(scores.losses.mean(dtype=np.float32)) for scores in given]
        entry = _described(request)
        for option, scores, mean in zip(entry["options"], given, means, strict=True):
            option.update(losses=scores.losses, greedy=scores.greedy, mean_loss=mean)
        if self.name == "language_modeling":
            correct = bool((given[0].greedy == request.options[0].answer).all())
            return entry | {"correct": correct}
        predicted = best_option(means)
        assert item.gold is not None
        asked = [option.ids.tobytes() for option in request.options]
        return entry | {
            "predicted": predicted,
            "gold": item.gold,
            "correct": predicted == item.gold,
            "credit": credit(means, item.gold, predicted, asked),
        }

    def tally(self, task: LanguageTask, log: pa.Table) -> Tally:
        """One for a right answer; a choice among options that tie counts by expectation."""
        correct = log["correct"].to_numpy().astype(np.float64)
        if "credit" in log.column_names:
            shared = log["credit"].to_numpy(zero_copy_only=False).astype(np.float64)
            correct = np.where(np.isnan(shared), correct, shared)
        categories = log["category"].fill_null("").combine_chunks().dictionary_encode()
        group = categories.indices.to_numpy().astype(np.int64)
        return Tally(correct, np.ones_like(correct), group)


def _without_text(log: pa.Table) -> pa.Table:
    """The log with everything null that a text could be read from."""
    for name in ("contexts", "options", "generated"):
        column = log.schema.get_field_index(name)
        log = log.set_column(column, log.schema.field(name), pa.nulls(len(log), log[name].type))
    return log


def _at_least_two(name: str, texts: Sequence[str]) -> None:
    if len(texts) < 2:
        raise DataError(f"field {name!r} has {len(texts)} texts; a choice needs at least two")


def _described(request: Request) -> dict[str, Any]:
    """The part of a log row that was known before the model was asked."""
    contexts = {id(option.context): option.context for option in request.options}
    number = {key: index for index, key in enumerate(contexts)}
    return {
        "row": request.row,
        "index": request.index,
        "category": request.category,
        "shots": request.shots,
        "contexts": list(contexts.values()),
        "options": [
            {"context": number[id(option.context)], "ids": option.answer}
            for option in request.options
            if len(option.answer)
        ],
    }


def check_vocabulary(task: str, request: Request, model: LanguageModel) -> None:
    """DataError when a request has an id that the model does not know."""
    largest = max(int(option.ids.max()) for option in request.options)
    if largest >= model.vocab_size:
        raise DataError(
            f"task {task}, row {request.row}: the tokenizer gives id {largest}, but the model "
            f"has {model.vocab_size} ids; take the tokenizer that the model was trained with"
        )


def _check_losses(task: LanguageTask, request: Request, given: Sequence[TokenScores]) -> None:
    for number, scores in enumerate(given):
        if problem := loss_fault(scores.losses):
            raise ModelError(
                f"task {task.name}, row {request.row}: for option {number} the model gives "
                f"{problem}"
            )


def _generate(
    task: LanguageTask, items: Sequence[Item], asked: Sequence[Request], model: LanguageModel
) -> list[dict[str, Any]]:
    stop = re.compile("|".join(task.stop)) if task.stop else None

    def is_done(text: str) -> bool:
        return stop is not None and stop.search(text) is not None

    outputs = model.generate(
        [request.options[0].context for request in asked],
        max_new_tokens=max(request.max_new_tokens for request in asked),
        is_done=is_done,
    )
    entries = []
    for item, request, ids in zip(items, asked, outputs, strict=True):
        text = model.detokenise(ids)
        cleaned = clean_generation(text, stop=task.stop, cot_delimiter=task.cot_delimiter)
        labels = {normalise_answer(label) for label in (item.answer, *item.aliases)}
        correct = generation_is_right(cleaned, labels)
        option = {"context": 0, "ids": as_ids(ids)}
        entries.append(
            _described(request) | {"options": [option], "generated": text, "correct": correct}
        )
    return entries


KINDS: dict[str, Kind[LanguageTask]] = {
    name: LanguageKind(name)
    for name in ("multiple_choice", "schema", "language_modeling", "generation")
}
