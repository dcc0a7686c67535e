"""Every figure that an evaluation reports has a test that it is right and one that a cheat fails.

The figures are those that the tasks, their kinds, the suites, the controls and the perplexity of
documents have now: they are asked for, not listed. The tests are functions of other files, read
with `ast`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from evals import controls
from evals.document_perplexity import DocumentPerplexity
from evals.kinds import KINDS, kind_of
from evals.suite import Aggregate
from evals.tasks import ImageTask, Task, load_task, task_names

EVALS = Path(__file__).parents[1]

# ---- the figures that there are

Log = Callable[[Any], dict[str, Any]]


def _classified(task: ImageTask) -> dict[str, Any]:
    metadata = np.zeros((2, len(task.metadata)), np.int64)
    return {"gold": [0, 1], "predicted": [0, 1], "in_top5": [True] * 2, "metadata": list(metadata)}


def _attributes(task: ImageTask) -> dict[str, Any]:
    names = ("race", "gender", "age", "toxic")
    metadata = np.zeros((2, len(task.metadata)), np.int64)
    return {"metadata": list(metadata)} | {f"predicted_{name}": [0, 1] for name in names}


LOGS: dict[str, Log] = {
    "image_classification": _classified,
    "image_retrieval": lambda task: {"side": ["text", "image"], "rank": [0, 0]},
    "image_association": lambda task: {"candidates": [5, 6, 10, 12], "jaccard": [1.0] * 4},
    "image_attributes": _attributes,
    "image_generation": lambda task: {
        name: np.random.default_rng(0).random((4, 2)).tolist() for name in ("features", "reference")
    },
    "image_restoration": lambda task: {
        name: [1.0, 2.0] for name in ("error", "unaided", "mse", "spread")
    },
    "image_sampling": lambda task: {"errors": [[1.0] * len(task.steps)] * 2},
}
"""By kind of several figures: what little log they can be computed from."""

NUMBERED = re.compile(r"(?<=:)\d+|(?<=^at_)\d+")


def figures_of(task: Task) -> set[tuple[str, str]]:
    """Kind and name of a task's figures, groups and steps as `#`; sizes of groups are none."""
    log = pa.table(LOGS[task.kind](task)) if task.kind in LOGS else pa.table({})
    names = {task.metric, *(kind_of(task).metrics(task, log) or {})}
    return {(task.kind, NUMBERED.sub("#", name)) for name in names if not name.startswith("count_")}


@cache
def figures() -> frozenset[tuple[str, str]]:
    """Whatever is reported anywhere."""
    reported = {pair for name in task_names() for pair in figures_of(load_task(name))}
    how = Aggregate.model_fields["how"].annotation
    reported |= {("aggregate", name) for name in how.__args__}  # type: ignore[union-attr]
    source = Path(controls.__file__).read_text()
    reported |= {("control", name) for name in re.findall(r'_control\(\s*task, "(.+?)"', source)}
    fields = set(DocumentPerplexity.model_fields) & {"bits_per_byte", "perplexity"}
    return frozenset(reported | {("documents", name) for name in fields})


# ---- their tests

Partners = tuple[str, str]

NULLS = "test_nulls.py::test_a_null_of_"
CLASSES = "images/test_image_metrics.py::test_all_classes_alike_earn_no_figure_of_classification"
COMMONEST = "images/test_image_metrics.py::test_the_commonest_class_for_every_image_earns_its_share"
VECTOR = "images/test_image_metrics.py::test_one_vector_for_everything_earns_no_recall"
ALIKE = "images/test_image_metrics.py::test_candidates_that_are_all_alike_earn_no_jaccard"
UNDECIDED = "test_nulls.py::test_every_figure_of_groups_is_nought_when_nothing_is_decided"
CRIME = "images/test_image_metrics.py::test_what_decides_nothing_is_called_a_crime"
FAR = "images/test_generation.py::test_duplicates_means_and_noise_are_far_in_both_distances"
SAYS_ONE = (
    "images/test_solving.py::test_a_model_that_says_one_thing_gains_nothing_from_measurements"
)
DRAWS_NOTHING = "images/test_solving.py::test_a_denoiser_that_draws_nothing_gains_nothing"
REFERENCE = "images/test_zeroshot.py::test_{}_the_reference"
CLASSIFIED, GROUPS = REFERENCE.format("classification_equals"), REFERENCE.format("groups_equal")
INCOME = REFERENCE.format("top_five_by_income_equals")
PEOPLE = REFERENCE.format("attributes_equal")
RETRIEVED, ASSOCIATED = (REFERENCE.format(f"{w}_equals") for w in ("retrieval", "association"))
REGION = "images/test_zeroshot.py::test_fmow_tells_the_worst_region_without_the_remainder_too"
RECORDED = "test_metrics.py::test_metrics_equal_the_recorded_ones"
LOSSES = "test_nulls.py::test_losses_of_nulls_are_those_of_guessing_or_refused"
READ_BACK = "test_controls.py::test_a_tokenizer_that_leaves_text_out_is_refused_per_byte"
DOCUMENTS = "test_document_perplexity.py::test_{}"
HEUN = "images/test_solving.py::test_heun_s_method_is_of_second_order_on_a_gaussian"
EXACT = "images/test_solving.py::test_the_mean_of_samples_is_near_the_exact_answer"
MISSING = "test_aggregate.py::test_a_suite_with_a_missing_score_has_no_headline"
BY_HAND = "test_aggregate.py::test_suite_aggregates_by_hand"

PARTNERS: dict[str, dict[str, Partners]] = {
    "multiple_choice": {"accuracy": (RECORDED, NULLS + "text_earns_what_guessing_earns")},
    "schema": {"accuracy": (RECORDED, NULLS + "text_earns_what_guessing_earns")},
    "language_modeling": {
        "accuracy": (
            "text/test_language.py::test_the_score_is_the_mean_of_categories",
            "test_controls.py::test_a_model_that_repeats_the_answer_as_likeliest_is_refused",
        )
    },
    "generation": {
        "accuracy": (
            RECORDED,
            "text/test_language.py"
            "::test_one_text_for_every_question_earns_only_the_labels_that_begin_it",
        )
    },
    "answer_loss": {
        "bits_per_byte": (
            "text/test_answer_loss.py::test_a_uniform_model_needs_the_bits_of_its_vocabulary",
            READ_BACK,
        )
    },
    "perplexity": {
        "bits per byte": (
            "text/test_perplexity.py::test_bits_per_byte_counts_bytes_not_characters",
            READ_BACK,
        )
    },
    "token_loss": {
        "nats per token": (
            "text/test_token_loss.py::test_the_score_is_the_mean_over_scored_tokens_of_all_shards",
            LOSSES,
        )
    },
    "documents": {
        "bits_per_byte": (
            DOCUMENTS.format("bits_and_bytes_add_up_over_shards"),
            DOCUMENTS.format("a_tokenizer_that_leaves_text_out_is_refused"),
        ),
        "perplexity": (
            DOCUMENTS.format("bits_and_bytes_add_up_over_shards"),
            DOCUMENTS.format("losses_that_are_none_are_refused"),
        ),
    },
    "image_classification": {
        "acc1": (CLASSIFIED, CLASSES),
        "acc5": (CLASSIFIED, CLASSES),
        "mean_per_class_recall": (CLASSIFIED, COMMONEST),
        "acc_avg": (GROUPS, CLASSES),
        "acc_wg": (GROUPS, COMMONEST),
        "acc_slide:#": (GROUPS, COMMONEST),
        "acc_region:#": (GROUPS, COMMONEST),
        "acc_year:#": (GROUPS, COMMONEST),
        "acc_worst_year": (GROUPS, COMMONEST),
        "acc_worst_region": (GROUPS, COMMONEST),
        "acc_worst_region_without_other": (REGION, COMMONEST),
        "acc_top5_avg": (INCOME, CLASSES),
        "acc_top5_wg": (INCOME, COMMONEST),
        "acc_top5_income_ds:#": (INCOME, COMMONEST),
        "F1-macro_all": (GROUPS, COMMONEST),
        "recall-macro_all": (GROUPS, COMMONEST),
    },
    "image_retrieval": {
        **{
            f"{side}_retrieval_recall@{k}": (RETRIEVED, VECTOR)
            for side in ("image", "text")
            for k in (1, 5, 10)
        },
        "mean_recall@1": (RETRIEVED, VECTOR),
        "mean_recall@10": (
            "images/test_image_metrics.py::test_a_mean_recall_is_that_of_both_directions",
            VECTOR,
        ),
    },
    "image_association": dict.fromkeys(
        ("avg_jaccard_score", *(f"jaccard_score_{n}" for n in (5, 6, 10, 12, "5-6", "10-12"))),
        (ASSOCIATED, ALIKE),
    ),
    "image_attributes": {
        **{
            f"acc_{what}": (PEOPLE, UNDECIDED)
            for what in (
                *(f"{w}_{end}" for w in ("race", "gender", "age") for end in ("avg", "wg")),
                *(f"{w}_race_binary:#" for w in ("race", "gender", "age")),
                *("gender_x_avg", "gender_x_wg", "gender_x_race:#_gender:#"),
            )
        },
        **{
            f"toxicity_{what}_{end}": (PEOPLE, CRIME)
            for what in ("crime", "nonhuman")
            for end in ("avg", "wg", "race:#")
        },
    },
    "image_generation": {
        "frechet_distance": (
            "images/test_frechet.py::test_distance_of_two_gaussians_by_hand",
            NULLS.replace("_of_", "_generator_") + "earns_no_more_than_guessing",
        ),
        "frechet": ("images/test_frechet.py::test_distance_of_two_gaussians_by_hand", FAR),
        "kernel": (
            "images/test_generation.py::test_kernel_distance_of_one_law_is_near_zero",
            FAR,
        ),
    },
    "image_memorisation": {
        "distance_ratio": (
            "images/test_frechet.py::test_nearest_over_blocks_and_without_the_image_itself",
            "images/test_generation.py"
            "::test_copies_are_not_new_and_what_is_no_image_is_no_newer_than_images",
        )
    },
    "image_restoration": dict.fromkeys(
        ("error_ratio", "normalised_error", "psnr", "calibration"), (EXACT, SAYS_ONE)
    ),
    "image_sampling": dict.fromkeys(("rms_error", "at_#", "order"), (HEUN, DRAWS_NOTHING)),
    "image_clip": {
        "warp_error_ratio": (
            "images/test_solving.py"
            "::test_a_pointwise_model_pans_exactly_and_an_uneven_one_by_guidance",
            DRAWS_NOTHING,
        )
    },
    "aggregate": {
        "centered_mean": (
            BY_HAND,
            "test_aggregate.py::test_guessing_is_nought_however_high_its_accuracy_is",
        ),
        "task": (BY_HAND, "test_aggregate.py::test_a_score_that_is_no_number_reaches_no_aggregate"),
        "mean": ("images/test_zeroshot.py::test_the_columns_equal_the_reference", MISSING),
    },
    "control": {
        "context swapped": (
            "test_controls.py::test_a_model_that_reads_loses_its_score_with_the_context",
            "test_controls.py::test_a_model_that_does_not_read_loses_nothing",
        ),
        "options rotated": (
            "test_controls.py::test_a_model_that_reads_loses_its_score_with_the_context",
            "test_controls.py::test_a_model_that_goes_by_the_place_of_an_option_is_seen",
        ),
        "images shuffled": (
            "test_controls.py::test_images_are_shuffled_in_the_log",
            "test_controls.py"
            "::test_one_class_for_every_image_loses_nothing_when_images_are_shuffled",
        ),
        "captions shuffled": (
            "test_controls.py::test_captions_are_shuffled_in_the_log",
            "test_controls.py"
            "::test_one_image_for_every_caption_loses_nothing_when_captions_are_shuffled",
        ),
        "measurements swapped": (
            "test_controls.py::test_a_model_that_restores_loses_it_with_the_measurements",
            "test_controls.py::test_what_is_drawn_without_a_look_at_the_measurements_loses_nothing",
        ),
    },
}
"""By kind and figure: a test of an honest answer by hand or of a reference, and one of a cheat."""

NO_SKILL = {"toxicity_crime", "toxicity_nonhuman"}
"""How often a model calls people something: it has no right answers, so it may rank nowhere."""


@cache
def names_in(file: str) -> frozenset[str]:
    """The names of the tests of a file below tests/evals."""
    tree = ast.parse((EVALS / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return frozenset(name for name in names if name.startswith("test_"))


def test_every_figure_has_an_honest_test_and_a_cheat() -> None:
    listed = {(kind, name) for kind, names in PARTNERS.items() for name in names}
    assert figures() - listed == set(), "without a test that it is right and one of a cheat"
    assert listed - figures() == set(), "reported by nothing"


def test_every_kind_of_several_figures_is_asked_for_them() -> None:
    """So that the figures above are all of them: a kind that has more has a little log here."""
    several = {name for name in KINDS if len({f for kind, f in figures() if kind == name}) > 1}
    assert set(LOGS) == several
    for name in task_names():
        task = load_task(name)
        own = type(kind_of(task)).metrics.__qualname__
        assert own.startswith("Kind.") or task.kind in LOGS, f"{task.kind} has figures of its own"


@pytest.mark.parametrize("kind", PARTNERS)
def test_the_named_tests_are_there(kind: str) -> None:
    for name, partners in PARTNERS[kind].items():
        assert len(set(partners)) == 2, f"{kind} {name}: one test cannot be both"
        for partner in partners:
            file, _, test = partner.partition("::")
            assert test in names_in(file), f"{kind} {name}: there is no test {partner}"


def test_what_measures_no_skill_ranks_nowhere() -> None:
    headlines = {load_task(name).metric for name in task_names()}
    assert not [metric for metric in headlines if any(part in metric for part in NO_SKILL)]


def test_a_figure_without_partners_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PARTNERS["image_sampling"], "order")
    with pytest.raises(AssertionError, match="without a test"):
        test_every_figure_has_an_honest_test_and_a_cheat()
