"""Every kind of task has a test that its score is right, and one that a model of nothing fails."""

from __future__ import annotations

import importlib

import pytest

from evals.controls import controls_of
from evals.kinds import KINDS
from evals.pins import TRUTH
from leaderboard.submissions.logs import COLUMNS, NEEDED
from leaderboard.submissions.record_form import CONTROLS
from tests.evals.test_nulls import IMAGE_TASKS, REFUSED

NULLS = "test_nulls"
TEXT = (NULLS, "test_a_null_of_text_earns_what_guessing_earns")
IMAGES = (NULLS, "test_a_null_of_images_earns_no_more_than_guessing")
DRAWN = (NULLS, "test_a_null_generator_earns_no_more_than_guessing")
RECORDED = ("test_metrics", "test_metrics_equal_the_recorded_ones")

PARTNERS: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "multiple_choice": (RECORDED, TEXT),
    "schema": (RECORDED, TEXT),
    "language_modeling": (RECORDED, TEXT),
    "generation": (RECORDED, TEXT),
    "answer_loss": (
        ("text.test_answer_loss", "test_the_losses_are_those_of_the_right_option"),
        ("text.test_answer_loss", "test_losses_that_are_none_are_refused"),
    ),
    "perplexity": (
        ("text.test_perplexity", "test_bits_per_byte_counts_bytes_not_characters"),
        (NULLS, "test_losses_of_nulls_are_those_of_guessing_or_refused"),
    ),
    "token_loss": (
        ("text.test_token_loss", "test_the_score_is_the_mean_over_scored_tokens_of_all_shards"),
        (NULLS, "test_losses_of_nulls_are_those_of_guessing_or_refused"),
    ),
    "image_classification": (
        ("images.test_zeroshot", "test_classification_equals_the_reference"),
        IMAGES,
    ),
    "image_retrieval": (("images.test_zeroshot", "test_retrieval_equals_the_reference"), IMAGES),
    "image_association": (
        ("images.test_zeroshot", "test_association_equals_the_reference"),
        IMAGES,
    ),
    "image_attributes": (
        ("images.test_zeroshot", "test_attributes_equal_the_reference"),
        (NULLS, "test_every_figure_of_groups_is_nought_when_nothing_is_decided"),
    ),
    "image_generation": (("images.test_frechet", "test_distance_of_two_gaussians_by_hand"), DRAWN),
    "image_memorisation": (
        ("images.test_frechet", "test_nearest_over_blocks_and_without_the_image_itself"),
        ("images.test_generation", "test_null_models_are_where_they_should_be"),
    ),
    "image_restoration": (
        ("images.test_solving", "test_the_mean_of_samples_is_near_the_exact_answer"),
        DRAWN,
    ),
    "image_sampling": (
        ("images.test_solving", "test_heun_s_method_is_of_second_order_on_a_gaussian"),
        DRAWN,
    ),
    "image_clip": (
        (
            "images.test_solving",
            "test_a_pointwise_model_pans_exactly_and_an_uneven_one_by_guidance",
        ),
        DRAWN,
    ),
}
"""By kind: a score by hand or of a reference, and models that know nothing at chance or refused."""


def test_every_kind_has_partners_columns_and_truth() -> None:
    """A new kind is in each of these lists before it is anybody's."""
    for listed in (PARTNERS, COLUMNS, NEEDED, TRUTH):
        assert set(listed) == set(KINDS)
    assert set(CONTROLS) < set(KINDS)
    assert callable(controls_of)


@pytest.mark.parametrize("kind", PARTNERS)
def test_the_partners_of_a_kind_are_there(kind: str) -> None:
    for module, name in PARTNERS[kind]:
        assert callable(getattr(importlib.import_module(f"tests.evals.{module}"), name))


def test_the_nulls_of_images_and_generators_are_asked_of_every_such_kind() -> None:
    from evals.suite import load_suite
    from evals.tasks import load_task

    asked = {load_task(name).kind for name in IMAGE_TASKS}
    assert asked >= {"image_classification", "image_retrieval", "image_association"}
    assert {load_task(name).kind for name in load_suite("ambient/tiny").tasks} == set(REFUSED)
