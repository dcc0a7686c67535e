"""The logs of a bundle: allowed columns, size limits and consistency.

`read_log` reads the columns that scores are computed from; `check_form` reads every column that any
page uses, in small batches, and bounds their unpacked size; `check_rows` checks that the rows can
be the answers of a model: every question once, and predicted, credit, losses, ranks consistent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from evals.images.image_metrics import jaccard_of
from evals.tasks import (
    OF_GENERATORS,
    PER_BYTE,
    ImageTask,
    PerplexityTask,
    PromptedTask,
    Task,
)
from leaderboard.submissions import generator_logs
from leaderboard.submissions.bundle import Bundle
from leaderboard.submissions.constant_logs import said_again
from leaderboard.submissions.faults import BundleError, Fault, Words, fault, under

MAX_ROWS = (
    5_000_000  # questions in one file of any task; a bound on memory, far above the largest task
)
MAX_UNPINNED_ROWS = 500_000  # of a task without a recorded number of questions
ROW_BYTES = 64 << 10  # per question on average: two contexts of 2,048 ids and their losses
MAX_LOG_BYTES = 768 << 20  # one task's log, unpacked; the stages that read it have 2 and 3 GiB
BATCH_ROWS = 32  # per batch where lists are long: a run of one number a million times is 8 MB a row
MANY_ROWS = 1 << 16  # per batch where all numbers of the file, those in lists too, are a few
FEW_NUMBERS = 4 << 20  # 32 MB of 64 bits
MAX_TEXT = 1 << 16  # bytes of one text in a log
LEAST_NATS = -1e-4  # a cross-entropy of 0 may round to this
HEAVY = (
    *("contexts", "options", "shots", "losses", "generated", "top5", "generation"),
    *("image", "nearest"),
)

Type = Callable[[pa.DataType], bool]


def _integers(kind: pa.DataType) -> bool:
    return _is_list(kind) and pa.types.is_integer(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _contexts(kind: pa.DataType) -> bool:
    return _is_list(kind) and _integers(kind.value_type)


def _options(kind: pa.DataType) -> bool:
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    fields = {field.name: field.type for field in kind.value_type}
    known: dict[str, Type] = {
        "context": pa.types.is_integer,
        "ids": _integers,
        "losses": _floats,
        "greedy": _integers,
        "mean_loss": pa.types.is_floating,
    }
    return set(fields) == set(known) and all(known[n](t) for n, t in fields.items())


def _floats(kind: pa.DataType) -> bool:
    return _is_list(kind) and pa.types.is_floating(kind.value_type)


def _bytes(kind: pa.DataType) -> bool:
    return _is_list(kind) and pa.types.is_uint8(kind.value_type)


def _text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _category(kind: pa.DataType) -> bool:
    return _text(kind) or pa.types.is_null(kind)


INTEGER, FLOAT, BOOLEAN = pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean
TEXT_LOG: dict[str, Type] = {
    "row": INTEGER,
    "index": INTEGER,
    "category": _category,
    "shots": _integers,
    "contexts": _contexts,
    "options": _options,
    "generated": _text,
    "predicted": INTEGER,
    "gold": INTEGER,
    "correct": BOOLEAN,
    "credit": FLOAT,
}
PER_BYTE_LOG: dict[str, Type] = {
    "row": INTEGER,
    "category": _category,
    "num_bytes": INTEGER,
    "num_tokens": INTEGER,
    "nats": FLOAT,
    "losses": _floats,
}
COLUMNS: dict[str, dict[str, Type]] = {
    **dict.fromkeys(("multiple_choice", "schema", "language_modeling", "generation"), TEXT_LOG),
    **dict.fromkeys(("perplexity", "answer_loss"), PER_BYTE_LOG),
    "token_loss": {"row": INTEGER, "num_tokens": INTEGER, "nats": FLOAT},
    "image_classification": {
        "row": INTEGER,
        "key": _text,
        "gold": INTEGER,
        "predicted": INTEGER,
        "top5": _integers,
        "in_top5": BOOLEAN,
        "margin": FLOAT,
        "correct": BOOLEAN,
        "metadata": _integers,
    },
    "image_retrieval": {
        "row": INTEGER,
        "side": _text,
        "gold": INTEGER,
        "predicted": INTEGER,
        "rank": INTEGER,
        "correct": BOOLEAN,
    },
    "image_association": {
        "row": INTEGER,
        "cue": _text,
        "candidates": INTEGER,
        "predicted": _integers,
        "gold": _integers,
        "jaccard": FLOAT,
    },
    "image_attributes": {"row": INTEGER, "key": _text, "metadata": _integers},
    "image_generation": {"row": INTEGER, "features": _floats, "reference": _floats},
    "image_memorisation": {
        "row": INTEGER,
        "train_distance": FLOAT,
        "heldout_distance": FLOAT,
        "image": _bytes,
        "nearest": _bytes,
    },
    "image_restoration": {
        "row": INTEGER,
        **dict.fromkeys(("error", "unaided", "mse", "spread", "evaluations"), FLOAT),
    },
    "image_sampling": {"row": INTEGER, "errors": _floats},
    "image_clip": {"row": INTEGER, "moved": FLOAT, "independent": FLOAT},
}
"""Every column that a log of a kind may have, and its type."""

NEEDED: dict[str, tuple[str, ...]] = {
    "multiple_choice": ("row", "predicted", "gold", "correct", "credit"),
    "schema": ("row", "predicted", "gold", "correct", "credit"),
    "language_modeling": ("row", "correct"),
    "generation": ("row", "correct"),
    "answer_loss": ("row", "num_bytes", "num_tokens", "nats"),
    "perplexity": ("row", "num_bytes", "num_tokens", "nats"),
    "token_loss": ("row", "num_tokens", "nats"),
    "image_classification": ("row", "key", "gold", "predicted", "in_top5", "margin", "correct"),
    "image_retrieval": ("row", "side", "gold", "predicted", "rank", "correct"),
    "image_association": ("row", "cue", "candidates", "predicted", "gold", "jaccard"),
    "image_attributes": ("row", "key", "metadata"),
    "image_generation": ("row", "features", "reference"),
    "image_memorisation": ("row", "train_distance", "heldout_distance"),
    "image_restoration": ("row", "error", "unaided", "mse", "spread"),
    "image_sampling": ("row", "errors"),
    "image_clip": ("row", "moved", "independent"),
}
OBJECTIVES = {"race": 7, "gender": 2, "age": 9, "toxic": 64}
"""Classes of what is said of images of people (FairFace); of offensive words at most so many."""


def columns_of(task: Task) -> tuple[dict[str, Type], tuple[str, ...]]:
    """The columns that a log of this task may have, and those that it must have."""
    known, needed = COLUMNS[task.kind], NEEDED[task.kind]
    if task.kind == "image_attributes":
        more = {f"predicted_{name}": INTEGER for name in OBJECTIVES}
        return known | more, (*needed, *more)
    if isinstance(task, PromptedTask | PerplexityTask) and task.by_category:
        needed = (*needed, "category")
    if isinstance(task, ImageTask) and task.metadata:
        needed = (*needed, "metadata")
    if task.kind == "image_classification" and task.metric.startswith("acc_top5"):
        needed = (*needed, "top5")  # the score is computed from it
    return known, needed


# ---- reading


def read_parquet(bundle: Bundle, name: str, *, columns: Sequence[str] | None) -> pa.Table:
    """A parquet file of the bundle; its hash and row count are checked before it is read.

    `columns` None reads all; () those that scores are computed from. BundleError for a file that
    is damaged, too long or not the listed one.
    """
    file = open_parquet(bundle, name)
    read_columns = list(columns) if columns else None
    if columns == ():
        read_columns = [column for column in file.schema_arrow.names if column not in HEAVY]
    try:
        return file.read(columns=read_columns, use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def open_parquet(bundle: Bundle, name: str, *, max_rows: int = MAX_ROWS) -> pq.ParquetFile:
    """A parquet file, opened but not unpacked. BundleError if its hash is not the listed one."""
    return _opened(name, _listed_bytes(bundle, name), max_rows)


def _listed_bytes(bundle: Bundle, name: str) -> pa.Buffer:
    data = bundle.read(name)
    [listed] = [file for file in bundle.manifest.files if file.name == name]
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != listed.sha256:
        other = fault(name, "sha256", sha256, listed.sha256)
        raise BundleError([under("form.manifest", other)])
    return pa.py_buffer(data)


def _opened(
    name: str, data: pa.Buffer, max_rows: int, dictionaries: Sequence[str] = ()
) -> pq.ParquetFile:
    """The file in these bytes; a text of the columns `dictionaries` is kept once, not per row."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=list(dictionaries))
        rows = file.metadata.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if rows > max_rows:
        raise BundleError([fault(name, "rows", rows, Words(f"at most {max_rows:,}"))])
    return file


def _unreadable(name: str, error: Exception) -> BundleError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return BundleError([fault(name, "", Words(text), Words("a parquet file"))])


def batch_rows(file: pq.ParquetFile) -> int:
    """How many rows of a log to read at once: many, but where its lists are long."""
    groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
    numbers = sum(group.column(n).num_values for group in groups for n in range(group.num_columns))
    return MANY_ROWS if numbers <= FEW_NUMBERS else BATCH_ROWS


def read_log(
    bundle: Bundle, seed: int, task: str, *, columns: Sequence[str] | None = ()
) -> pa.Table:
    """The log of one task, its parts in order; BundleError as `read_parquet`."""
    return pa.concat_tables(
        [read_parquet(bundle, name, columns=columns) for name in bundle.parts(seed, task)]
    )


def columns_in(bundle: Bundle, seed: int, task: str) -> set[str]:
    """The columns that every part of a task's log has; BundleError as `read_parquet`."""
    names = [set(open_parquet(bundle, n).schema_arrow.names) for n in bundle.parts(seed, task)]
    return set.intersection(*names) if names else set()


# ---- form


def check_form(
    bundle: Bundle, names: Sequence[str], task: Task, *, rows: int | None, tick: Callable[[], None]
) -> Iterator[Fault]:
    """Every column is one that the rules name, of its type, and small; streamed, nothing kept."""
    total, unpacked, budget = 0, 0, 0
    known, needed = columns_of(task)
    most = rows if rows is not None else MAX_UNPINNED_ROWS
    for name in names:
        data = _listed_bytes(bundle, name)
        schema = _opened(name, data, most).schema_arrow
        for field in schema:
            if field.name not in known:
                yield fault(name, field.name, Words("a column that no rule names"), sorted(known))
            elif not known[field.name](field.type):
                yield fault(name, field.name, Words(f"type {field.type}"), Words("its own type"))
        missing = [column for column in needed if column not in schema.names]
        if missing:
            yield fault(name, ", ".join(missing), Words("no such column"), Words("one"))
        if len(set(schema.names)) < len(schema.names):
            yield fault(name, "", Words("two columns of one name"), Words("each once"))
            return
        texts = [field.name for field in schema if _text(field.type)]
        file = _opened(name, data, most, dictionaries=texts)
        total += file.metadata.num_rows
        try:
            for batch in file.iter_batches(batch_size=batch_rows(file), use_threads=False):
                tick()
                batch.validate(full=True)
                lengths = {column: _lengths(batch[column]) for column in texts}
                unpacked += _unpacked_bytes(batch, lengths)
                budget += ROW_BYTES * len(batch) + _text_budget(batch)
                if unpacked > min(budget + (1 << 20), MAX_LOG_BYTES):
                    yield fault(
                        name,
                        "",
                        Words(f"more than {unpacked:,} bytes unpacked"),
                        Words(f"at most {ROW_BYTES:,} a question, {MAX_LOG_BYTES:,} in all"),
                    )
                    return
                yield from _long_texts(name, lengths)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(name, error) from None
    if rows is not None and total != rows:
        where = names[0].rpartition("/")[0]
        yield fault(where, "rows", total, rows, f"the questions of {task.name}")


def _text_budget(batch: pa.RecordBatch) -> int:
    """Further bytes allowed: a document of n bytes has at most n tokens, each with a loss."""
    if "num_bytes" not in batch.schema.names:
        return 0
    return 8 * max(0, pc.sum(batch["num_bytes"]).as_py() or 0)


def _lengths(texts: pa.Array) -> pa.Array:
    """The bytes of each row's text, from those of the dictionary: no row is unpacked."""
    if not isinstance(texts, pa.DictionaryArray):  # a name with a dot, which no rule names
        return pc.binary_length(texts)
    return pc.binary_length(texts.dictionary).take(texts.indices)


def _unpacked_bytes(batch: pa.RecordBatch, lengths: dict[str, pa.Array]) -> int:
    """The size of a batch with every text in each of its rows, with offsets of 32 bits."""
    others = sum(batch[name].nbytes for name in batch.schema.names if name not in lengths)
    texts = sum(4 * len(batch) + (pc.sum(values).as_py() or 0) for values in lengths.values())
    return others + texts


def _long_texts(name: str, lengths: dict[str, pa.Array]) -> Iterator[Fault]:
    for column, values in lengths.items():
        longest = pc.max(values).as_py() or 0
        if longest > MAX_TEXT:
            yield fault(name, column, Words(f"a text of {longest:,} bytes"), Words("less"))


# ---- rows


def check_rows(name: str, task: Task, log: pa.Table) -> Iterator[Fault]:
    """Whether the rows can be a model's answers to the questions 0 to n - 1, each once."""
    empty = [n for n in NEEDED[task.kind] if log[n].null_count]
    for column in empty:
        yield fault(name, column, Words(f"{log[column].null_count} rows without"), Words("none"))
    if empty:
        return
    rows = np.sort(log["row"].to_numpy())
    if not np.array_equal(rows, np.arange(len(rows))):
        twice = len(np.unique(rows)) < len(rows)
        problem = Words("a question twice" if twice else "rows that are missing")
        yield fault(name, "row", problem, Words(f"each of 0 to {len(rows) - 1} once"))
        return
    few = generator_logs.too_few(task, len(rows))
    if few:
        yield fault(name, "row", Words(f"{len(rows)} rows"), Words(few))
        return
    for column, wrong, expected in chain(_consistent(task, log), said_again(task, log)):
        bad = np.flatnonzero(wrong)
        if len(bad):
            first = log["row"][int(bad[0])].as_py()
            yield fault(
                name, column, Words(f"{len(bad)} rows (first: row {first}) where it {expected}"), 0
            )


Wrong = Iterator[tuple[str, np.ndarray[Any, Any], str]]


def _consistent(task: Task, log: pa.Table) -> Wrong:
    """Columns, with a mask of the rows whose value is impossible and what is wrong with it."""
    if task.kind in ("multiple_choice", "schema"):
        yield from _choices(log)
    elif task.kind in (*PER_BYTE, "token_loss"):
        yield from _losses(task, log)
    elif task.kind == "image_classification":
        gold, predicted = log["gold"].to_numpy(), log["predicted"].to_numpy()
        size = task.classes or int(max(gold.max(), predicted.max())) + 1
        for column, values in (("gold", gold), ("predicted", predicted)):
            yield column, (values < 0) | (values >= size), "is not a class"
        right, hit = _bools(log, "correct"), _bools(log, "in_top5")
        yield "correct", right != (predicted == gold), "differs from predicted = gold"
        yield "in_top5", (predicted == gold) & ~hit, "is false for the best class"
        margin = log["margin"].to_numpy()
        yield "margin", ~(margin <= 0), "is above 0: it is the right class's less the best one's"
        yield "margin", right & (margin < 0), "is below 0 for the best class"
    elif task.kind == "image_retrieval":
        yield from _retrieval(log)
    elif task.kind == "image_association":
        yield from _association(log)
    elif task.kind == "image_attributes":
        for name, classes in OBJECTIVES.items():
            values = log[f"predicted_{name}"].to_numpy()
            yield f"predicted_{name}", (values < 0) | (values >= classes), "is not a class"
    elif isinstance(task, OF_GENERATORS):
        yield from generator_logs.wrong(task, log)


def _bools(log: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(log[name].to_numpy(zero_copy_only=False), dtype=bool)


def _choices(log: pa.Table) -> Wrong:
    gold, predicted = log["gold"].to_numpy(), log["predicted"].to_numpy()
    right, credit = _bools(log, "correct"), log["credit"].to_numpy()
    yield "gold", gold < 0, "is not an option"
    yield "predicted", predicted < 0, "is not an option"
    yield "correct", right != (predicted == gold), "differs from predicted = gold"
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(credit > 0, 1 / credit, 1.0)
    part = (
        np.isfinite(credit) & (credit >= 0) & (credit <= 1) & (abs(share - np.rint(share)) < 1e-6)
    )
    yield "credit", ~part, "is not 0 or 1 / (a number of options)"
    yield "credit", (credit == 1) & ~right, "is 1 for a wrong answer"
    yield "credit", (credit == 0) & right, "is 0 for a right answer"


def _losses(task: Task, log: pa.Table) -> Wrong:
    nats, tokens = log["nats"].to_numpy(), log["num_tokens"].to_numpy()
    yield "nats", ~np.isfinite(nats), "is not a number"
    yield "nats", nats < LEAST_NATS, "is below 0, so a probability above 1"
    yield "num_tokens", tokens < 0, "is below 0"
    if task.kind in PER_BYTE:
        num_bytes = log["num_bytes"].to_numpy()
        yield "num_bytes", num_bytes <= 0, "is not above 0"
        # An answer is scored with the space before it, which `num_bytes` does not count.
        room = num_bytes if task.kind == "perplexity" else num_bytes + 1
        yield "num_tokens", tokens > room, "is above the number of bytes"


def _retrieval(log: pa.Table) -> Wrong:
    order = np.argsort(log["row"].to_numpy(), kind="stable")
    text = (log["side"].to_numpy(zero_copy_only=False) == "text")[order]
    gold, predicted = log["gold"].to_numpy()[order], log["predicted"].to_numpy()[order]
    rank, right = log["rank"].to_numpy()[order], _bools(log, "correct")[order]
    num_texts = int(text.sum())
    num_images = len(text) - num_texts

    def back(wrong: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        by_row = np.empty(len(wrong), bool)
        by_row[order] = wrong
        return by_row

    others = np.where(text, num_images, num_texts)
    yield "rank", back((rank < 0) | (rank >= others)), "is not a rank among the others"
    yield "correct", back(right != (rank == 0)), "differs from rank = 0"
    yield "predicted", back((predicted < 0) | (predicted >= others)), "is none of the others"
    if not text[:num_texts].all() or (gold[text] < 0).any() or (gold[text] >= num_images).any():
        yield "side", np.ones(len(text), bool), "does not list the texts first, then the images"
        return
    taken = np.where(text, predicted, gold[np.clip(predicted, 0, num_texts - 1)])
    yield "rank", back((rank == 0) != (taken == gold)), "says another than predicted and gold"


def _association(log: pa.Table) -> Wrong:
    predicted, gold = log["predicted"].to_pylist(), log["gold"].to_pylist()
    count, claimed = log["candidates"].to_numpy(), log["jaccard"].to_numpy()
    again = np.array([jaccard_of(p, g) for p, g in zip(predicted, gold, strict=True)])
    yield "jaccard", ~(abs(claimed - again) < 1e-9), "differs from predicted and gold"
    wrong = [
        len(set(p)) != len(set(g)) or not g or not set(p) | set(g) <= set(range(n))
        for p, g, n in zip(predicted, gold, count.tolist(), strict=True)
    ]
    yield "predicted", np.array(wrong), "is not as many candidates as there are associations"
