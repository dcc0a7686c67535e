"""Near-duplicate images or captions: embeddings of one cluster that point the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.dedup.ranks import Keep, rank_kind, ranks
from pipelines.image_text.clusters import (
    features_of,
    finite_rows,
    has_gpu,
    nearest,
    on_device,
    read_features,
)
from pipelines.operators import AssetFolder, Dedup, Keys

MIXED = np.uint64(0x9E3779B97F4A7C15)  # spreads clusters over the parts


class EmbeddingDedup(Dedup, name="embedding_dedup"):
    """Keep one of pairs in a cluster whose features have a cosine of `min_cosine` or more.

    A pair goes only if one that stays is as similar. Pairs of other clusters are not compared, so
    more clusters cost less and miss more; features that are no numbers, or zero, are never
    duplicates. (Abbas et al. 2023, SemDeDup, which keeps the one farthest from its centroid; here
    `keep_by` says which)
    """

    pairwise: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("near_duplicate_embedding",)

    features: str = Field("l14_img", description="the column of features")
    centroids: str = Field(description="asset: centroids, an array (clusters, dim) in .npy")
    min_cosine: float = Field(0.95, gt=0, le=1, description="least cosine of a near-duplicate")
    keep_by: str | None = Field(
        None, description="a column: who stays among near ones (ties and none: the first row)"
    )
    keep: Keep = Field("max", description="which value of `keep_by` stays")
    _centroids: Any = PrivateAttr(None)
    _nearest: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return (self.features,) if self.keep_by is None else (self.features, self.keep_by)

    def assets(self) -> tuple[str, ...]:
        return (self.centroids,)

    def needs(self) -> Mapping[str, float]:
        """A GPU, where there are any; processors do the same, far slower."""
        return {"num_gpus": 1}

    def load(self, assets: AssetFolder) -> None:
        self._centroids = read_features(assets.path(self.centroids))
        self._nearest = on_device("cuda", self._centroids) if has_gpu() else None

    def min_similarity(self) -> float:
        """The least cosine."""
        return self.min_cosine

    def keys(self, batch: Batch) -> Keys:
        features = features_of(batch.column(self.features), self.features)
        if len(features) and features.shape[1] != self._centroids.shape[1]:
            raise ValueError(
                f"{self.features!r} has {features.shape[1]} numbers per image, the centroids have "
                f"{self._centroids.shape[1]}"
            )
        lengths = np.linalg.norm(features, axis=1)
        rows = np.flatnonzero(finite_rows(features) & (lengths > 0))
        features = features[rows]
        if self._nearest is not None and len(rows):
            cluster = self._nearest(features)
        else:
            cluster = nearest(features, self._centroids)
        cluster = cluster.astype(np.uint64)
        unit = (features / lengths[rows, None]).astype(np.float16)
        return Keys(
            position=rows,
            unit=np.zeros(len(rows), np.int64),
            key=np.stack([(cluster + np.uint64(1)) * MIXED, cluster], axis=1),
            rank=ranks(batch, self.keep_by, self.keep)[rows],
            rank_kind=rank_kind(batch, self.keep_by),
            payload=np.ascontiguousarray(unit).view(np.uint8),
        )
