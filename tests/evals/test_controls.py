"""Controls: a score that uses its context drops without it, one that does not is seen not to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from evals.controls import check_probabilities, chosen_rows, controls_of, image_controls
from evals.images.generation import TrainingSet
from evals.kinds import kind_of, read_data
from evals.models import Ids, ModelError, Query, TokenScores
from evals.nulls import NullModel
from evals.tasks import Task, load_task
from pipelines.records import Control
from tests.evals.helpers import make_task, strokes, write_rows

N = 200


class Reader(NullModel):
    """Knows the answer: the option that repeats the last byte of the context is cheap."""

    def __init__(self) -> None:
        super().__init__("uniform")

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        return [[self._read(q.context, answer) for answer in q.continuations] for q in queries]

    def _read(self, context: Ids, answer: Ids) -> TokenScores:
        losses = np.where(answer == context[-1], 0.1, 5.0).astype(np.float32)
        return TokenScores(losses, np.full(len(answer), context[-1], np.int32))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """The context ends in the letter of the right option."""
    letters = "abcd"
    rows = [
        {"query": f"{n} {letters[n % 4]}", "choices": list(letters), "gold": n % 4}
        for n in range(N)
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    return make_task(delimiter="")


def controls(task: Task, folder: Path, model: NullModel) -> dict[str, Control]:
    data = read_data(task, folder)
    log = kind_of(task).answer(task, data, range(N), model, window=64)
    all_controls = controls_of(task, data, model, window=64, log=log)
    return {control.name: control for control in all_controls}


def test_a_model_that_reads_loses_its_score_with_the_context(task: Task, tmp_path: Path) -> None:
    all_controls = controls(task, tmp_path, Reader())
    swapped, rotated = all_controls["context swapped"], all_controls["options rotated"]
    assert (swapped.score, swapped.num_items) == (1.0, 64)
    # The context of another question has the same letter about one time in four.
    assert 0.05 < swapped.control < 0.5
    assert swapped.low > 0.4
    assert (rotated.control, rotated.drop) == (1.0, 0.0)
    assert rotated.low < 0 < rotated.high


def test_a_model_that_does_not_read_loses_nothing(task: Task, tmp_path: Path) -> None:
    all_controls = controls(task, tmp_path, NullModel("context_blind"))
    assert all_controls["context swapped"].drop == 0
    assert all_controls["context swapped"].low < 0


def test_a_model_that_goes_by_the_place_of_an_option_is_seen(tmp_path: Path) -> None:
    rows = [{"query": f"{n}", "choices": list("abcd"), "gold": 0} for n in range(N)]
    write_rows(tmp_path / "t.jsonl", rows)
    all_controls = controls(make_task(), tmp_path, NullModel("first_option"))
    assert (all_controls["options rotated"].score, all_controls["options rotated"].control) == (
        1.0,
        0.0,
    )
    assert all_controls["options rotated"].low > 0.9


def test_the_sample_depends_on_the_data_alone(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    assert chosen_rows(data, 64, what="control") == chosen_rows(data, 64, what="control")
    assert chosen_rows(data, 64, what="control") != list(range(64))
    assert len(set(chosen_rows(data, 64, what="control"))) == 64


def test_images_are_shuffled_in_the_log() -> None:
    gold = np.arange(300) % 10
    log = pa.table({"row": np.arange(300), "gold": gold, "predicted": gold})
    [control] = image_controls(load_task("cifar10"), log)
    assert (control.name, control.score) == ("images shuffled", 1.0)
    assert control.control < 0.25
    assert control.low > 0.7


def test_one_class_for_every_image_loses_nothing_when_images_are_shuffled() -> None:
    zeros = np.zeros(300, np.int64)
    log = pa.table({"row": np.arange(300), "gold": np.arange(300) % 10, "predicted": zeros})
    [control] = image_controls(load_task("cifar10"), log)
    assert control.low <= 0


def retrieved(rank: np.ndarray, predicted: np.ndarray) -> Control:
    """300 captions of 300 images."""
    columns = {"row": np.arange(300), "side": ["text"] * 300, "gold": np.arange(300)}
    log = pa.table({**columns, "predicted": predicted, "rank": rank})
    [control] = image_controls(load_task("flickr_1k"), log)
    assert control.name == "captions shuffled"
    return control


def test_captions_are_shuffled_in_the_log() -> None:
    control = retrieved(np.zeros(300, np.int64), np.arange(300))
    assert (control.score, control.control) == (1.0, 0.0)


def test_one_image_for_every_caption_loses_nothing_when_captions_are_shuffled() -> None:
    first = np.zeros(300, np.int64)
    control = retrieved((np.arange(300) > 0).astype(np.int64), first)
    assert control.score == control.control == 1 / 300
    assert control.low <= 0


# ---- probabilities


def test_probabilities_that_sum_to_one_pass(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    for null in ("uniform", "random", "context_blind"):
        assert check_probabilities(task, data, NullModel(null), window=64) == 2


def test_certainty_of_everything_is_refused(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    with pytest.raises(ModelError, match=r"sum to 257 over 257 ids, not to 1"):
        check_probabilities(task, data, NullModel("zeros"), window=64)


def test_losses_beside_the_distribution_are_refused(task: Task, tmp_path: Path) -> None:
    data = read_data(task, tmp_path)
    with pytest.raises(ModelError, match=r"a loss of 5 where its own probabilities say 5\.549"):
        check_probabilities(task, data, Reader(), window=64)


class Echo(NullModel):
    """Probabilities that are right, and whatever is asked about called the likeliest."""

    def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
        honest = super().score(queries)
        return [
            [TokenScores(s.losses, a) for s, a in zip(scores, query.continuations, strict=True)]
            for query, scores in zip(queries, honest, strict=True)
        ]


@pytest.mark.parametrize("null", ["uniform", "random", "context_blind"])
def test_a_model_that_repeats_the_answer_as_likeliest_is_refused(null: str, tmp_path: Path) -> None:
    """Every answer of a language modelling task would be right."""
    write_rows(tmp_path / "t.jsonl", [{"context": "a", "continuation": "bc"}] * 3)
    task = make_task(kind="language_modeling")
    data = read_data(task, tmp_path)
    assert check_probabilities(task, data, NullModel(null), window=64) == 2
    with pytest.raises(ModelError, match="row 0: the model calls both 99 and 100 the likeliest"):
        check_probabilities(task, data, Echo(null), window=64)


def test_a_likeliest_token_beside_the_distribution_is_refused(tmp_path: Path) -> None:
    class Always(NullModel):
        def score(self, queries: Sequence[Query]) -> list[list[TokenScores]]:
            honest = super().score(queries)
            always = np.full(1, 200, np.int32)
            return [[TokenScores(s.losses, always) for s in scores] for scores in honest]

    write_rows(tmp_path / "t.jsonl", [{"context": "a", "continuation": "bc"}] * 3)
    task = make_task(kind="language_modeling")
    data = read_data(task, tmp_path)
    with pytest.raises(ModelError, match="calls 200 the likeliest next token, but its own"):
        check_probabilities(task, data, Always("context_blind"), window=64)


class Lossy(NullModel):
    """A uniform model over bytes, of a text that its tokenizer changes before."""

    def __init__(self, change: Callable[[str], str]) -> None:
        super().__init__("uniform")
        self._change = change

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        return super().tokenise([self._change(text) for text in texts])


@pytest.mark.parametrize("kind", ["perplexity", "answer_loss"])
@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda text: text[::2], False),  # half of the bits for all of the bytes
        (lambda _: "a", False),
        (str.lower, False),  # fewer letters to choose from
        (lambda text: " ".join(text.split()), True),
        (lambda text: text.replace("<|end|>", ""), True),  # a special token, not written back
        (lambda text: text.replace("ﬁ", "fi"), True),  # a ligature as two letters, as NFKC has it
    ],
)
def test_a_tokenizer_that_leaves_text_out_is_refused_per_byte(
    change: Callable[[str], str], kept: bool, kind: str, tmp_path: Path
) -> None:
    text = "Anna ran  Otto's fine ﬁsh <|end|>"
    row = {"text": text} if kind == "perplexity" else {"context": "I", "continuation": text}
    write_rows(tmp_path / "t.jsonl", [row] * 3)
    more = {"asked": "language_modeling"} if kind == "answer_loss" else {}
    task = make_task(kind=kind, metric="bits_per_byte", **more)
    data = read_data(task, tmp_path)
    if kept:
        assert check_probabilities(task, data, Lossy(change), window=64) == 2
        return
    with pytest.raises(
        ModelError, match=r"row \d: only .*% of the text's letters can be read back"
    ):
        check_probabilities(task, data, Lossy(change), window=64)


@pytest.mark.parametrize("kind", ["perplexity", "token_loss", "generation"])
def test_every_kind_of_text_has_places_to_check(kind: str, tmp_path: Path) -> None:
    rows = {
        "perplexity": {"text": "one two"},
        "token_loss": {"ids": [4, 5, 6]},
        "generation": {"context": "2+2?", "answer": "4"},
    }
    write_rows(tmp_path / "t.jsonl", [rows[kind]] * 3)
    task = make_task(kind=kind)
    data = read_data(task, tmp_path)
    assert check_probabilities(task, data, NullModel("uniform"), window=64) == 2
    with pytest.raises(ModelError, match="sum to 257"):
        check_probabilities(task, data, NullModel("zeros"), window=64)


def swapped_measurements(model: object, folder: Path) -> Control:
    np.savez(folder / "digits_heldout.npz", images=strokes(1, 128))
    task = load_task("digits_restored_pixels")
    data = read_data(task, str(folder))
    log = kind_of(task).answer(task, data, range(data.num_rows), model, window=0)
    assert isinstance(log, pa.Table)
    [control] = controls_of(task, data, model, window=0, log=log)
    assert (control.name, control.num_items) == ("measurements swapped", 16)
    return control


def test_a_model_that_restores_loses_it_with_the_measurements(tmp_path: Path) -> None:
    assert swapped_measurements(TrainingSet(strokes(2, 40)), tmp_path).low > 0


def test_what_is_drawn_without_a_look_at_the_measurements_loses_nothing(tmp_path: Path) -> None:
    assert swapped_measurements(NullModel("constant"), tmp_path).low <= 0
