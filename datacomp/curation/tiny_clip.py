"""A CLIP trained on a part of the pool, or all of it, that scores the whole pool.

It is the model of a pipeline with the first seed, trained under the scale's own recipe: nothing
but the pool goes into it. At the tiny scale the pipeline is `no_filter`: the pairs that the model
finds likely are those whose caption says what other images of the same thing are said to show.
With trusted pairs it is a data filtering network. (Fang et al. 2023)
"""

from __future__ import annotations

from datacomp.curation import score as scoring
from datacomp.curation.scorers import ScorerSpec, scorer_id
from datacomp.pool import pool as pools
from leaderboard.rounds import launch, training
from leaderboard.rounds import round as stages
from leaderboard.rounds.launch import Launch
from leaderboard.rounds.workspace import Round
from pipelines.records import AssetRecord

NAME = "tiny_clip"  # as the step `scores` of tiny_baseline calls it
SOURCE = "no_filter"


def train_scorer(
    current: Round, *, pipeline: str = SOURCE, name: str = NAME, placement: Launch | None = None
) -> AssetRecord:
    """Train on the pairs of a pipeline and score the pool; what is done already is kept.

    `placement` says where a training run takes place; without one, in this process.

    The scores are among the workspace's assets, where pipelines look for them.
    """
    seed = current.recipe.seeds[0]
    curated = stages.curate(current, stages.find_pipeline(current, pipeline))
    packed = stages.pack(current, curated)
    run = None
    if placement is not None and not placement.side_by_side:
        run = launch.trainer(placement, training.run_training)
    [trained] = training.train(
        current, [(curated, packed)], seeds=[seed], recipe=current.scale.recipe, run=run
    )
    pool = pools.open_scale(
        current.scale.name, workspace=current.workspace, map_tasks=current.map_tasks
    )
    spec = ScorerSpec(kind="clip", model=trained.model(current))
    return scoring.score(
        pool,
        pools.images(current.scale.name, workspace=current.workspace),
        scorer=spec,
        scorer_id=scorer_id(spec),
        name=name,
        out=f"{current.workspace}/assets/{name}",
        map_tasks=current.map_tasks,
    )
