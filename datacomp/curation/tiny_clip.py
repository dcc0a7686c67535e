"""The scorer of the tiny scale: a CLIP that is trained on the whole pool, and scores it.

It is the model of `no_filter` with the first seed, trained under the scale's own recipe: nothing
but the pool goes into it. The pairs that it finds likely are those whose caption says what other
images of the same thing are said to show. (The idea of data filtering networks, Fang et al. 2023,
with the raw pool as their training set)
"""

from __future__ import annotations

from datacomp.curation import score as scoring
from datacomp.curation.scorers import ScorerSpec, scorer_id
from datacomp.pool import pool as pools
from leaderboard.rounds import round as stages
from leaderboard.rounds import training
from leaderboard.rounds.workspace import Round
from pipelines.records import AssetRecord

NAME = "tiny_clip"  # as the step `scores` of tiny_baseline calls it
SOURCE = "no_filter"


def train_scorer(current: Round) -> AssetRecord:
    """Train the scorer and score the pool with it; what is done already is kept.

    The scores lie among the workspace's assets, where pipelines look for them.
    """
    seed = current.recipe.seeds[0]
    curated = stages.curate(current, stages.find_pipeline(current, SOURCE))
    packed = stages.pack(current, curated)
    [trained] = training.train(
        current, [(curated, packed)], seeds=[seed], recipe=current.scale.recipe
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
        name=NAME,
        out=f"{current.workspace}/assets/{NAME}",
        map_tasks=current.map_tasks,
    )
