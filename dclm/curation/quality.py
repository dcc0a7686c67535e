"""The tiny scale's quality classifier: the pool's good prose against its other documents.

It is `pipelines train-classifier` with the settings of the tiny scale: all positives in the order
of their file, and the English documents of the pool whose text hashes lowest.
"""

from __future__ import annotations

from pathlib import Path

from dclm.pool import pool as pools
from pipelines.execution.executors import MapTasks
from pipelines.pipeline import Pipeline
from pipelines.records import AssetRecord
from pipelines.scoring.samples import Documents, Source, open_source
from pipelines.scoring.train import TrainingOptions, train
from pipelines.text.quality import ClassifierRecipe

NAME = "tiny-quality.bin"
NUM_NEGATIVES = 1500  # documents, those with the lowest hashes
ENGLISH = (
    "language_id",
    {"language": {"keep": ["en"], "min_probability": 0}},
    {"length": {"unit": "character", "min_units": 200}},
)
RECIPE = ClassifierRecipe()
"""Smaller than DCLM's own: two thousand documents have few words."""


def model_file(workspace: str) -> Path:
    """Where pipelines of a workspace look for the classifier."""
    return Path(workspace) / "assets" / NAME


def train_quality(*, workspace: str, map_tasks: MapTasks) -> AssetRecord:
    """Train on the tiny pool's positives against a hash sample of its English documents."""
    pool = pools.open_scale("tiny", workspace=workspace, map_tasks=map_tasks)
    assets = pools.assets("tiny", workspace=workspace)
    return train(
        Documents((open_source(str(pools.positives(workspace=workspace))),)),
        Documents(
            (Source("pool", pool),),
            take=NUM_NEGATIVES,
            qualify=Pipeline.from_steps(ENGLISH, name="english", assets=assets),
        ),
        out=model_file(workspace),
        options=TrainingOptions(recipe=RECIPE, balance="as_is", held_out=0.0, seed=None),
        map_tasks=map_tasks,
        licence="derived from the tiny pool's sources",
    )
