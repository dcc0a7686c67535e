from __future__ import annotations

import gzip

import numpy as np
import orjson
import pytest
from tokenizers import Tokenizer

from evals.kinds import kind_of, read_data
from evals.models import ModelError, TokenScores
from evals.tasks import load_task
from evals.text.language import Request, requests
from pipelines.errors import DataError
from tests.evals.helpers import FakeModel, make_task, over_recorded, write_rows


def pytest_generate_tests(metafunc):
    over_recorded(metafunc, "icl_file", "icl/*.json.gz")


ROWS = [{"query": f"q{i}", "choices": ["yes", "no", "no"], "gold": i % 3} for i in range(7)]


def answer(task, folder, model, rows, window=2048):
    return kind_of(task).answer(task, read_data(task, folder), rows, model, window=window)


@pytest.mark.parity
def test_requests_equal_the_recorded_digests(icl_file, fixtures):
    folder = fixtures / "dclm-eval"
    tokenizer = Tokenizer.from_file(str(folder / "gpt-neox-20b-tokenizer/tokenizer.json"))
    recorded = orjson.loads(gzip.decompress(icl_file.read_bytes()))
    parts: dict[str | None, list[Request]] = {}
    for request in requests(load_task(recorded["label"]), folder / "local_data", tokenizer):
        parts.setdefault(request.category, []).append(request)
    assert set(parts) == {part["category"] for part in recorded["parts"]}
    for part in recorded["parts"]:
        ours = parts[part["category"]]
        assert len(ours) == part["n"]
        assert [r.digest() for r in ours[: len(part["digests"])]] == part["digests"]
        for example in part["examples"]:
            asked = ours[example["idx"]]
            assert list(asked.shots) == example["fewshot_idxs_in_order"]
            if "input_ids" in example:
                assert asked.options[0].ids.tolist() == example["input_ids"]
                assert asked.max_new_tokens == part["max_new_tokens"]
            for option, theirs in zip(asked.options, example.get("options", ()), strict=False):
                assert list(option.span) == theirs["span"]
                assert option.answer.tolist() == theirs["cont_ids"]


def test_options_that_share_a_context_are_one_query(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    (first, *_) = requests(make_task(shots=2), tmp_path, FakeModel())
    (query,) = first.query()
    assert len(query.continuations) == 3


def test_options_of_other_lengths_see_other_contexts_when_trimmed(tmp_path):
    class Letters:
        def tokenise(self, texts):
            return [[ord(letter) for letter in text] for text in texts]

    row = {"query": "abcdefgh", "choices": ["x", "yyy"], "gold": 0}
    write_rows(tmp_path / "t.jsonl", [row, row])
    (first, *_) = requests(make_task(), tmp_path, Letters(), window=6)
    # " a" is two letters here, so answers get no leading blank
    assert [bytes(o.ids.tolist()).decode() for o in first.options] == ["defghx", "fghyyy"]
    assert len(first.query()) == 2


def test_a_part_of_the_questions_has_the_requests_of_the_whole(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    task, model = make_task(shots=2), FakeModel()
    whole = answer(task, tmp_path, model, range(7))
    parts = [answer(task, tmp_path, model, rows) for rows in (range(3), range(3, 7))]
    assert whole.to_pylist() == parts[0].to_pylist() + parts[1].to_pylist()


def test_shots_stay_in_the_category(tmp_path):
    rows = [{"context": f"c{i}", "continuation": "x", "category": "ab"[i % 2]} for i in range(8)]
    write_rows(tmp_path / "t.jsonl", rows)
    task = make_task(kind="language_modeling", by_category=True, shots=3)
    asked = list(requests(task, tmp_path, FakeModel()))
    assert [request.row for request in asked] == [0, 2, 4, 6, 1, 3, 5, 7]
    assert all(sorted({*r.shots, r.index}) == [0, 1, 2, 3] for r in asked)


def test_the_score_is_the_mean_of_categories(tmp_path):
    model = FakeModel()
    words = [f"w{i}" for i in range(50)]
    even = [w for w in words if model.tokenise([f" {w}"])[0][0] % 2 == 0]
    odd = [w for w in words if w not in even]
    rows = [
        {"context": "c", "continuation": even[0], "category": "b"},
        {"context": "c", "continuation": odd[0], "category": "b"},
        {"context": "c", "continuation": odd[1], "category": "b"},
        {"context": "c", "continuation": odd[2], "category": "b"},
        {"context": "c", "continuation": even[1], "category": "a"},
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    task = make_task(kind="language_modeling", by_category=True)
    log = answer(task, tmp_path, model, range(5))
    tally = kind_of(task).tally(task, log)
    assert tally.numerator.tolist() == [1, 0, 0, 0, 1]
    assert tally.group.tolist() == [0, 0, 0, 0, 1]


def test_the_log_explains_every_answer(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    model = FakeModel()
    (entry,) = answer(make_task(), tmp_path, model, [4]).to_pylist()
    assert (entry["row"], entry["predicted"], entry["gold"], entry["correct"]) == (4, 0, 1, False)
    assert entry["contexts"] == model.tokenise(["q4"])
    assert [option["ids"] for option in entry["options"]] == model.tokenise([" yes", " no", " no"])
    assert [option["mean_loss"] for option in entry["options"]] == [2.0, 2.0, 2.0]


def test_texts_of_a_secret_task_are_not_in_its_log(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    (entry,) = answer(make_task(secret=True), tmp_path, FakeModel(), [1]).to_pylist()
    assert entry["contexts"] is entry["options"] is entry["generated"] is None
    assert entry["correct"] is False


def test_generation_ends_where_the_reference_ends_it(tmp_path):
    rows = [
        {"context": "2+2?", "answer": "4", "chain_of_thought": "two and two"},
        {"context": "3+3?", "answer": "6", "chain_of_thought": "three and three"},
    ]
    write_rows(tmp_path / "t.jsonl", rows)
    left = make_task(kind="generation", stop=("Q:",), cot_delimiter=" #### ", shots=1)
    log = answer(left, tmp_path, FakeModel(), range(2)).to_pylist()
    assert [entry["correct"] for entry in log] == [True, False]
    assert [entry["generated"] for entry in log] == ["4", "4"]
    (task, _) = requests(left, tmp_path, FakeModel())
    assert task.max_new_tokens == 11  # one token, and ten to spare behind a chain of thought


def test_one_text_for_every_question_earns_only_the_labels_that_begin_it(tmp_path):
    """As the reference counts: 399 begins with 3, 39 and 399, of 400 labels."""

    class Says399(FakeModel):
        def detokenise(self, ids):
            return "399"

    write_rows(tmp_path / "t.jsonl", [{"context": "c", "answer": str(n)} for n in range(400)])
    task = make_task(kind="generation")
    log = answer(task, tmp_path, Says399(), range(400))
    assert [row for row, right in enumerate(log["correct"].to_pylist()) if right] == [3, 39, 399]


def test_a_loss_that_is_not_a_number_names_task_and_row(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    with pytest.raises(
        ModelError, match=r"task t, row 2: for option 0 the model gives a loss that is not a number"
    ):
        answer(make_task(), tmp_path, FakeModel(loss=float("nan")), [2])


def test_a_checkpoint_of_another_vocabulary_is_named(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    with pytest.raises(DataError, match="take the tokenizer that the model was trained with"):
        answer(make_task(), tmp_path, FakeModel(vocab_size=10), range(7))


def test_an_answer_that_fills_the_window_is_refused(tmp_path):
    write_rows(tmp_path / "t.jsonl", ROWS)
    with pytest.raises(DataError, match=r"row 0: an answer of 1 tokens leaves no context"):
        list(requests(make_task(), tmp_path, FakeModel(), window=1))


def test_an_empty_context_is_refused(tmp_path):
    write_rows(tmp_path / "t.jsonl", [{"context": " ", "continuation": "x"}])
    with pytest.raises(DataError, match="row 0: the context is empty"):
        list(requests(make_task(kind="language_modeling"), tmp_path, FakeModel()))


def test_the_first_of_tied_options_is_chosen(tmp_path):
    kind = kind_of(make_task())
    wide = TokenScores(np.float32([1, 3]), np.int32([0, 0]))
    short = TokenScores(np.float32([2]), np.int32([0]))
    write_rows(tmp_path / "t.jsonl", ROWS)
    (first, *_) = requests(make_task(), tmp_path, _OneToken())
    item = read_data(make_task(), tmp_path).items[0]
    assert kind._entry(item, first, [wide, short, short])["predicted"] == 0


class _OneToken:
    def tokenise(self, texts):
        return [[7] for _ in texts]


def test_a_tokenizers_beginning_comes_once_before_the_shots(tmp_path):
    class Begins(FakeModel):
        prompt_start = (99, 98)

    write_rows(tmp_path / "t.jsonl", ROWS)
    asked = list(requests(make_task(shots=2), tmp_path, Begins()))
    plain = list(requests(make_task(shots=2), tmp_path, FakeModel()))
    for first, other in zip(asked, plain, strict=True):
        assert [o.context.tolist() for o in first.options] == [
            [99, 98, *o.context.tolist()] for o in other.options
        ]
