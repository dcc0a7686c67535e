from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from evals.items import Tally
from evals.metrics import (
    best_option,
    bootstrap,
    centered,
    clean_generation,
    generation_is_right,
    normalise_answer,
    score_of,
    standard_error,
)


def tally(numerator, denominator, group):
    return Tally(np.array(numerator, float), np.array(denominator, float), np.array(group))


def test_the_lowest_loss_wins_and_the_first_of_equals():
    assert best_option([np.float32(2), np.float32(1), np.float32(1)]) == 1


def test_losses_that_overflow_a_perplexity_tie():
    assert best_option([np.float32(101), np.float32(100)]) == 0
    assert best_option([np.float32(88), np.float32(87)]) == 1


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel_Tower!", "eiffel tower"),
        ("  a  AN the cat", "cat"),
        ("4.20", "4 20"),
        ("‘x’", "x"),
        ("the", ""),
    ],
)
def test_answers_are_normalised(text, normal):
    assert normalise_answer(text) == normal


def test_generation_is_cut_at_the_stop_and_after_the_last_delimiter():
    text = "so 3 #### 3, no #### 42\n\nQ: 5 #### 7"
    assert clean_generation(text, stop=("\n\n", "Q:"), cot_delimiter=" #### ") == "42"


def test_generation_is_right_when_it_starts_with_a_label():
    assert generation_is_right("eiffel tower another", {"eiffel tower"})
    assert not generation_is_right("the", {"eiffel"})


@pytest.mark.parity
def test_metrics_equal_the_recorded_ones(fixtures):
    recorded = orjson.loads((fixtures / "dclm-eval/icl/metric_units.json").read_bytes())
    for case in recorded["generation"]:
        normalise = case.get("norm", True)
        out = clean_generation(
            case["out"],
            stop=case.get("stop", ()),
            cot_delimiter=case.get("cot", ""),
            normalise=normalise,
        )
        labels = {normalise_answer(x) if normalise else x.strip() for x in case["labels"]}
        assert out == case["cleaned_output"]
        assert sorted(labels) == sorted(case["cleaned_labels"])
        assert generation_is_right(out, labels) == bool(case["result"])
    for case in recorded["multiple_choice"]:
        means = []
        for option in case["token_logit"]:
            logits = np.array(option, dtype=np.float64)
            means.append(np.float32(np.mean(np.logaddexp(logits, 0) - logits)))
        assert best_option(means) == case["pred"]
        assert (best_option(means) == case["gold"]) == bool(case["result"])


def test_the_score_is_the_mean_over_groups():
    # group 0: 1 of 2, group 1: 1 of 1
    assert score_of(tally([1, 0, 1], [1, 1, 1], [0, 0, 1])) == 0.75


def test_a_ratio_is_of_sums():
    assert score_of(tally([2, 4], [1, 3], [0, 0])) == 1.5


def test_bootstrap_agrees_with_the_binomial_error():
    right = np.arange(400) % 4 == 0
    draws = bootstrap(tally(right, np.ones(400), np.zeros(400, int)), seed=1)
    # sqrt(p (1 - p) / n); 1000 draws know a standard error to about 2.2%, so 8% is safe
    assert standard_error(draws) == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.08)


def test_bootstrap_agrees_with_the_delta_method_for_a_ratio():
    rng = np.random.default_rng(0)
    num_bytes = rng.integers(50, 150, size=500).astype(float)
    bits = num_bytes * rng.normal(1.5, 0.2, size=500)
    ratio = bits.sum() / num_bytes.sum()
    delta = math.sqrt(((bits - ratio * num_bytes) ** 2).sum()) / num_bytes.sum()
    draws = bootstrap(tally(bits, num_bytes, np.zeros(500, int)), seed=2)
    assert standard_error(draws) == pytest.approx(delta, rel=0.08)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_logs_of_any_precision_are_resampled(dtype: type) -> None:
    """Another library writes single precision; the draws are those of the same numbers."""
    numbers = np.arange(1, 61)
    for denominator in (np.ones(60), 1 + numbers % 7):
        draws = [
            bootstrap(
                Tally(numbers.astype(kind), denominator.astype(kind), np.zeros(60, np.int64)),
                seed=1,
                num_draws=50,
            )
            for kind in (np.float64, dtype)
        ]
        assert draws[1].dtype == np.float64
        np.testing.assert_allclose(draws[1], draws[0], rtol=1e-6)


def test_tasks_with_one_seed_draw_the_same_items():
    first = tally(np.arange(9) % 2, np.ones(9), np.zeros(9, int))
    assert (bootstrap(first, seed=5) == bootstrap(first, seed=5)).all()


def test_centered_accuracy():
    assert centered(0.25, 0.25) == 0
    assert centered(1.0, 0.62) == 1
    assert centered(0.5, 0.2) == pytest.approx(0.375)
