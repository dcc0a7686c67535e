from __future__ import annotations

import re

import orjson
import pytest

from evals.items import Item
from evals.text.prompts import (
    PromptTokens,
    answer_texts,
    draw_shots,
    question_texts,
    shot_text,
    trim,
)
from tests.evals.helpers import make_task


class Words:
    """A word with the blanks before it is one token; blanks at the end are one, too."""

    def __init__(self):
        self.ids = {}
        self.num_texts = 0

    def tokenise(self, texts):
        self.num_texts += len(texts)
        pieces = [re.findall(r"\s*\S+|\s+", text) for text in texts]
        return [[self.ids.setdefault(word, len(self.ids)) for word in row] for row in pieces]


def test_shots_never_hold_the_question_itself():
    for index, shots in enumerate(draw_shots(12, 5)):
        assert index not in shots
        assert len(set(shots)) == 5


def test_shots_are_all_other_items_when_there_are_too_few():
    assert [sorted(shots) for shots in draw_shots(3, 10)] == [[1, 2], [0, 2], [0, 1]]


def test_no_shots_are_drawn_for_zero():
    assert draw_shots(4, 0) == [[], [], [], []]


@pytest.mark.parity
def test_shots_equal_the_recorded_ones(fixtures):
    recorded = orjson.loads((fixtures / "dclm-eval/icl/metric_units.json").read_bytes())
    for case in recorded["fewshot"]:
        drawn = draw_shots(case["n"], case["k"], seed=case["seed"])
        assert drawn[: len(case["rows"])] == case["rows"]


@pytest.mark.parity
def test_contexts_are_trimmed_as_recorded(fixtures):
    recorded = orjson.loads((fixtures / "dclm-eval/icl/metric_units.json").read_bytes())
    for case in recorded["trim"]:
        context = list(range(case["n_ctx"]))
        if "error" in case:
            with pytest.raises(ValueError, match="longer than the window"):
                trim(context, case["n_cont"], case["max"])
        else:
            kept = trim(context, case["n_cont"], case["max"])
            assert (len(kept), kept[0]) == (case["kept"], case["first"])


def test_multiple_choice_prompt():
    asked = make_task(prelimiter="Q: ", delimiter="\nAnswer: ")
    item = Item(row=0, context="Why?", options=("Because", "No"), gold=1)
    assert shot_text(asked, item) == "Q: Why?\nAnswer: No"
    assert question_texts(asked, item, after_shots=True) == ("\nQ: Why?\nAnswer:",)
    assert question_texts(asked, item, after_shots=False) == ("Q: Why?\nAnswer:",)
    assert answer_texts(item, leading_space=True) == (" Because", " No")


def test_schema_prompt_without_shots_has_no_delimiter():
    asked = make_task(kind="schema", delimiter=" + ")
    item = Item(row=0, contexts=("She said", "He said "), answer=" it rains", gold=0)
    assert question_texts(asked, item, after_shots=False) == ("She said", "He said")
    assert answer_texts(item, leading_space=True) == (" it rains", " it rains")


def test_schema_prompt_with_shots():
    asked = make_task(kind="schema", prelimiter="> ", shots=1)
    item = Item(row=0, contexts=("She said", "He said"), answer="it rains", gold=1)
    assert shot_text(asked, item) == "> He said it rains"
    assert question_texts(asked, item, after_shots=True) == ("> \nShe said", "> \nHe said")


def test_chain_of_thought_stands_in_the_shots():
    asked = make_task(kind="generation", delimiter="\nA: ", cot_delimiter=" #### ")
    item = Item(row=0, context="1+1?", answer="2", reasoning="one and one")
    assert shot_text(asked, item) == "1+1?\nA: one and one #### 2"


def test_pieces_of_shots_join_to_the_ids_of_the_whole_block():
    words = Words()
    items = [Item(row=i, context=f"question {i} ?", answer=f"answer {i}") for i in range(4)]
    tokens = PromptTokens(make_task(kind="language_modeling"), items, words)
    whole = words.tokenise(["question 2 ? answer 2\nquestion 0 ? answer 0"])
    before = words.num_texts
    assert tokens.shots([[2, 0], [2, 0], [0, 2], []]) == [
        whole[0],
        whole[0],
        words.tokenise(["question 0 ? answer 0\nquestion 2 ? answer 2"])[0],
        [],
    ]
    assert words.num_texts - before == 5  # each of the two items first and not first, and ours


def test_a_shot_with_outer_blanks_is_not_joined():
    words = Words()
    items = [Item(row=i, context="c", options=("x ", "y"), gold=0) for i in range(2)]
    tokens = PromptTokens(make_task(), items, words)
    assert tokens.shots([[0, 1]]) == words.tokenise(["c x \nc x "])


def test_the_longest_solution_counts_reasoning_and_aliases():
    items = [
        Item(row=0, context="c", answer="one", aliases=("one two three",)),
        Item(row=1, context="c", answer="four", reasoning="a b c"),
    ]
    asked = make_task(kind="generation", cot_delimiter=" # ")
    assert PromptTokens(asked, items, Words()).longest_solution == 5
