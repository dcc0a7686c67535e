"""What a row says its dataset and models cost, and what it says when a record does not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from leaderboard.submissions.bundle import open_bundle
from leaderboard.submissions.chain import chain_of
from leaderboard.submissions.results import Costs, _costs
from pipelines.records import DatasetRecord, ModelRecord
from tests.leaderboard.made_up import make_folder


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRecord, list[ModelRecord]]:
    folder: Path = make_folder(tmp_path_factory.mktemp("costs"), seeds=(124, 125))
    kinds = chain_of(open_bundle(folder).record)
    return kinds["dataset"][0], kinds["model"]


def saying(record, **figures: float):
    """The record with these figures of its making."""
    return record.model_copy(
        update={"made_by": record.made_by.model_copy(update={"figures": figures})}
    )


def test_costs_are_summed_over_processes_and_averaged_over_seeds(records) -> None:
    dataset, models = records
    trained = [
        saying(models[0], seconds=100.0, num_processes=8.0),
        saying(models[1], seconds=120.0, num_processes=8.0),
    ]
    costs = _costs(saying(dataset, cpu_seconds=3.5, gpu_seconds=2.0), trained)
    assert costs == Costs(
        curation_cpu_seconds=3.5,
        curation_gpu_seconds=2.0,
        training_seconds=880.0,
        dataset_bytes=1000,
    )


def test_a_cost_that_no_record_says_is_not_known(records) -> None:
    dataset, models = records
    assert _costs(dataset, models) == Costs(dataset_bytes=1000)
    one_says = [saying(models[0], seconds=100.0), models[1]]
    assert _costs(dataset, one_says).training_seconds is None


@pytest.mark.parametrize("value", [-1.0, 0.0, math.inf, math.nan])
def test_a_cost_that_cannot_be_is_not_known(records, value: float) -> None:
    dataset, models = records
    costs = _costs(saying(dataset, cpu_seconds=value), [saying(m, seconds=value) for m in models])
    assert costs == Costs(dataset_bytes=1000)
