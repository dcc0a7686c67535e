"""The losses in a log are evidence for its answers: what was chosen and paid follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from evals.images.shown_images import NUM_SHOWN, shape_of
from evals.metrics import TIE, credit
from evals.tasks import PER_BYTE, Task, is_secret
from leaderboard.submissions.faults import Fault, Words, fault
from leaderboard.submissions.logs import LEAST_NATS

SECRET_TIES = 0.1  # of the rows of a task whose options must not be written
TOP = 5
NO_CLASS = -1  # in place of null: no class has this number
BYTE = 127.5  # of a byte in an image of [-1, 1]
MOST_OF_LIKELIEST = math.log(1 << 20)  # no vocabulary here has a million ids
LEAST_OF_OTHERS = math.log(2) - 0.05  # half, less what bf16 rounds
LOSS_TOLERANCE = 1e-3  # relative: a mean of float32 losses in another order


def check_evidence(name: str, task: Task, log: pa.Table) -> Iterator[Fault]:
    """A batch of whole rows: what was chosen follows from the losses that the log shows."""
    if task.kind in PER_BYTE and "losses" in log.column_names:
        yield from _summed(name, log)
    if task.kind == "image_memorisation" and "image" in log.column_names:
        yield from _images(name, log)
    if task.kind == "image_classification" and "top5" in log.column_names:
        yield from _top5(name, log)
    if task.kind == "generation" and "generated" in log.column_names:
        yield from _silent(name, log)
    if task.kind == "language_modeling" and "options" in log.column_names:
        yield from _said(name, log)
    if task.kind not in ("multiple_choice", "schema"):
        return
    there = "options" in log.column_names
    options = log["options"].combine_chunks() if there else pa.nulls(len(log), pa.null())
    if options.null_count == len(options) or not len(options.flatten()):
        yield from _unshown_ties(name, task, log)
        return
    flat = options.flatten()
    count = pc.list_value_length(options).fill_null(0).to_numpy()
    means = flat.field("mean_loss").to_numpy(zero_copy_only=False).astype(np.float64)
    if (count < 2).any() or not np.isfinite(means).all() or (means < LEAST_NATS).any():
        yield fault(
            name, "options", Words("a mean loss that is not a number"), Words("finite, 0 or more")
        )
        return
    losses = flat.field("losses")
    yield from _tokens(name, "options", losses)
    yield from _greedy(name, flat)
    length = pc.list_value_length(losses).fill_null(0).to_numpy()
    sums = _sums(losses, length)
    if (length < 1).any() or _apart(sums / np.maximum(length, 1), means).any():
        problem = Words("a mean loss that is not the mean of its losses")
        yield fault(name, "options", problem, Words("their mean"))
        return
    start = np.cumsum(count) - count
    best = np.minimum.reduceat(means, start)
    predicted, gold = log["predicted"].to_numpy(), log["gold"].to_numpy()
    outside = (predicted >= count) | (gold >= count)
    chosen = means[start + np.minimum(predicted, count - 1)]
    wrong = np.flatnonzero(outside | (chosen > best + LOSS_TOLERANCE * np.maximum(1, abs(best))))
    if len(wrong):
        first = log["row"][int(wrong[0])].as_py()
        problem = Words(f"{len(wrong)} rows (first: row {first}) where another option costs less")
        yield fault(name, "predicted", problem, Words("the option of the lowest mean loss"))
        return
    right = means[start + gold]
    unearned = right > best + LOSS_TOLERANCE * np.maximum(1, abs(best))
    paid = np.flatnonzero((log["credit"].to_numpy() > 0) & unearned)
    if len(paid):
        first = log["row"][int(paid[0])].as_py()
        problem = Words(f"{len(paid)} rows (first: row {first}) paid for an option that costs more")
        yield fault(name, "credit", problem, Words("0"))
        return
    yield from _ties(name, log, flat, start, count, means)


def _tokens(name: str, column: str, losses: pa.Array) -> Iterator[Fault]:
    """No token costs less than nothing: one below 0 would pay for others in the sum."""
    values = losses.flatten().to_numpy(zero_copy_only=False)
    if not (np.isfinite(values) & (values >= LEAST_NATS)).all():
        problem = Words("the loss of a token that is no number, or below 0")
        yield fault(name, column, problem, Words("finite, 0 or more"))


def _greedy(name: str, options: pa.Array) -> Iterator[Fault]:
    """What a model would have said next, and what the token cost, are of one distribution.

    The likeliest of V tokens has at least 1 / V; a token that is not the likeliest has at most 1/2.
    """
    ids, greedy, losses = (options.field(part).flatten() for part in ("ids", "greedy", "losses"))
    if not len(ids) == len(greedy) == len(losses):
        problem = Words("other numbers of ids, greedy ids and losses")
        yield fault(name, "options", problem, Words("one of each for a token"))
        return
    likeliest = ids.to_numpy(zero_copy_only=False) == greedy.to_numpy(zero_copy_only=False)
    cost = losses.to_numpy(zero_copy_only=False)
    if (likeliest & (cost > MOST_OF_LIKELIEST)).any():
        problem = Words("the likeliest token costs more than one of a million equal ones")
        yield fault(name, "options", problem, Words(f"at most {MOST_OF_LIKELIEST:.1f} nats"))
    if (~likeliest & (cost < LEAST_OF_OTHERS)).any():
        problem = Words("a token that is not the likeliest has more than half of the probability")
        yield fault(name, "options", problem, Words(f"at least {LEAST_OF_OTHERS:.2f} nats"))


def _said(name: str, log: pa.Table) -> Iterator[Fault]:
    """A word was said where each of its tokens is the likeliest."""
    options = log["options"].combine_chunks()
    if options.null_count == len(options):
        return
    flat = options.flatten()
    if len(flat) != len(log) or options.null_count:
        problem = Words("other than one option in each row")
        yield fault(name, "options", problem, Words("the word that was asked for"))
        return
    yield from _tokens(name, "options", flat.field("losses"))
    yield from _greedy(name, flat)
    said = flat.field("ids").to_pylist(), flat.field("greedy").to_pylist()
    right = np.array([ids == greedy for ids, greedy in zip(*said, strict=True)])
    wrong = np.flatnonzero(right != log["correct"].to_numpy(zero_copy_only=False))
    if len(wrong):
        first = log["row"][int(wrong[0])].as_py()
        problem = Words(f"{len(wrong)} rows (first: row {first}) that differ from the greedy ids")
        yield fault(name, "correct", problem, Words("true where all are the word's"))


def _silent(name: str, log: pa.Table) -> Iterator[Fault]:
    """A right answer has letters."""
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(log["generated"])), 0)
    right = log["correct"].to_numpy(zero_copy_only=False).astype(bool)
    wrong = np.flatnonzero(right & pc.fill_null(blank, True).to_numpy(zero_copy_only=False))
    if len(wrong):
        first = log["row"][int(wrong[0])].as_py()
        problem = Words(f"{len(wrong)} rows (first: row {first}) that are right without a text")
        yield fault(name, "generated", problem, Words("the text that begins with the answer"))


def _top5(name: str, log: pa.Table) -> Iterator[Fault]:
    """The best class is the first of the five, and the right one is among them where it says so."""
    lists = log["top5"].combine_chunks()
    starts = lists.offsets.to_numpy()[:-1]
    lengths = np.diff(lists.offsets.to_numpy())
    classes = pc.cast(lists.values, pa.int64(), safe=False).fill_null(NO_CLASS).to_numpy()
    gold, predicted, hit = (
        log[name].to_numpy(zero_copy_only=False) for name in ("gold", "predicted", "in_top5")
    )
    good = np.zeros(len(log), bool)
    for length in range(1, TOP + 1):
        rows = np.flatnonzero(lengths == length)
        best = classes[starts[rows, None] + np.arange(length)]
        once = (np.diff(np.sort(best, axis=1), axis=1) != 0).all(axis=1)
        inside = (best == gold[rows, None]).any(axis=1)
        good[rows] = once & (best[:, 0] == predicted[rows]) & (inside == hit[rows])
    wrong = log["row"].to_numpy()[~good].tolist()
    if wrong:
        problem = Words(
            f"{len(wrong)} rows (first: row {wrong[0]}) of another first or right class"
        )
        yield fault(name, "top5", problem, Words("as predicted, gold and in_top5 say"))


def _images(name: str, log: pa.Table) -> Iterator[Fault]:
    """Images are shown of the first rows only, drawn and nearest alike, all of one shape."""
    shown = log["row"].to_numpy() < NUM_SHOWN
    lengths = set()
    for column in ("image", "nearest"):
        if column not in log.column_names:
            yield fault(name, column, Words("no such column"), Words("one beside 'image'"))
            return
        length = pc.list_value_length(log[column]).fill_null(-1).to_numpy()
        lengths |= set(length[shown].tolist())
        if (length[~shown] != -1).any() or log[column].combine_chunks().flatten().null_count:
            problem = Words("images elsewhere than in the first rows, or bytes that are not there")
            yield fault(name, column, problem, Words(f"images of the first {NUM_SHOWN} rows"))
            return
    if len(lengths) > 1 or any(shape_of(length) is None for length in lengths):
        problem = Words("bytes that are no square images of one size")
        yield fault(name, "image", problem, Words("channels x side x side bytes, as documented"))
    elif shown.any():
        yield from _as_far(name, log.filter(pa.array(shown)))


def _as_far(name: str, log: pa.Table) -> Iterator[Fault]:
    """An image is no further from its neighbour than the log's distance.

    Bytes are cut to [0, 255] and means of blocks where images are large: both only bring images
    closer. What is left is the rounding to bytes, at most one in each pixel.
    """
    drawn, near = (np.array(log[column].to_pylist(), np.float64) for column in ("image", "nearest"))
    apart = np.sqrt(((drawn - near) ** 2).sum(1)) / BYTE
    rounding = math.sqrt(drawn.shape[1]) / BYTE
    wrong = np.flatnonzero(apart > log["train_distance"].to_numpy() + rounding + 1e-6)
    if len(wrong):
        row = log["row"][int(wrong[0])].as_py()
        problem = Words(f"{len(wrong)} images (first: row {row}) further away than train_distance")
        yield fault(name, "nearest", problem, Words("the nearest training image of each"))


def _unshown_ties(name: str, task: Task, log: pa.Table) -> Iterator[Fault]:
    """Without losses nobody sees a tie; logs of secret tasks have none, and few ties."""
    part = log["credit"].to_numpy()
    shared = np.flatnonzero((part > 0) & (part < 1))
    if is_secret(task) and len(shared) <= SECRET_TIES * len(log) + 2:
        return
    if len(shared):
        first = log["row"][int(shared[0])].as_py()
        problem = Words(f"{len(shared)} rows (first: row {first}) of options that tie, unseen")
        yield fault(name, "credit", problem, Words("the options' losses in `options`"))


def _ties(
    name: str,
    log: pa.Table,
    flat: pa.Array,
    start: np.ndarray[Any, Any],
    count: np.ndarray[Any, Any],
    means: np.ndarray[Any, Any],
) -> Iterator[Fault]:
    """Where options tie, the credit is the expectation over them, computed again."""
    best = np.minimum.reduceat(means, start)
    near = means <= np.repeat(best + TIE * np.maximum(1.0, abs(best)), count)
    several = np.add.reduceat(near.astype(np.int64), start) > 1
    claimed = log["credit"].to_numpy()
    gold, predicted = log["gold"].to_numpy(), log["predicted"].to_numpy()
    ids = flat.field("ids")
    wrong = []
    for row in np.flatnonzero(several | ((claimed > 0) & (claimed < 1))).tolist():
        first, stop = int(start[row]), int(start[row] + count[row])
        asked = [repr(ids[option].as_py()).encode() for option in range(first, stop)]
        losses = means[first:stop].astype(np.float32)
        if abs(credit(list(losses), gold[row], predicted[row], asked) - claimed[row]) > 1e-9:
            wrong.append(row)
    if wrong:
        problem = Words(f"{len(wrong)} rows (first: row {log['row'][wrong[0]].as_py()}) of a tie")
        yield fault(name, "credit", problem, Words("1 / (a number of options that tie)"))


def _summed(name: str, log: pa.Table) -> Iterator[Fault]:
    losses = log["losses"].combine_chunks()
    yield from _tokens(name, "losses", losses)
    length = pc.list_value_length(losses).fill_null(0).to_numpy()
    shown = length > 0
    nats, tokens = log["nats"].to_numpy(), log["num_tokens"].to_numpy()
    sums = _sums(losses, length)
    wrong = np.flatnonzero(shown & (_apart(sums, nats) | (length != tokens)))
    if len(wrong):
        first = log["row"][int(wrong[0])].as_py()
        problem = Words(
            f"{len(wrong)} rows (first: row {first}) that are not the sum of the losses"
        )
        yield fault(name, "nats", problem, Words("the sum over the tokens"))


def _sums(lists: pa.Array, length: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Sums of the lists, 0 for empty and null ones."""
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.cumsum(length)
    result: np.ndarray[Any, Any] = total[end] - total[end - length]
    return result


def _apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = ~(abs(a - b) <= LOSS_TOLERANCE * np.maximum(1, abs(b)))
    return result
