"""Figures printed in papers and READMEs, so that a new service is no empty page.

Sources: the README of the DCLM repository (its table of 7B models); Gadre et al. 2023, "DataComp",
Table 3 (baselines of the filtering track), as ImageNet and mean over 38 datasets; of these the
averages and sizes were written down from memory of the paper, and open_clip's own documentation has
0.030 where the table has 0.038 for `basic` at small scale.
"""

from __future__ import annotations

from typing import NamedTuple

from leaderboard.database.store import Store
from leaderboard.submissions.results import Budget, Figure, Headline, Row, SeedScore, Size
from pipelines.records import digest

DCLM_SOURCE = "the README of the DCLM repository"
DATACOMP_SOURCE = "Gadre et al. 2023, Table 3"


class Model(NamedTuple):
    """A line of DCLM's table; scores in percent, tokens in units of 10^12."""

    method: str
    params: float
    tokens: float | None
    core_v1: float
    core_v2: float
    mmlu: float
    extended_v1: float
    extended_v2: float | None


DCLM = (
    Model("Llama2", 7e9, 2, 49.2, 47.5, 45.8, 34.1, 32.5),
    Model("DeepSeek", 7e9, 2, 50.7, 49.1, 48.5, 35.3, 33.7),
    # Its EXTENDED v2 is printed as 57.0, which is the value of the line below it: left out.
    Model("Mistral-0.3", 7e9, None, 57.0, 55.7, 62.7, 45.1, None),
    Model("Qwen-2", 7e9, None, 57.5, 56.5, 71.9, 50.5, 49.6),
    Model("Llama3", 8e9, 15, 57.6, 56.5, 66.2, 46.3, 45.2),
    Model("Gemma", 8e9, 6, 57.8, 56.8, 64.3, 44.6, 43.5),
    Model("Phi-3", 7e9, None, 61.0, 59.9, 69.9, 57.9, 57.0),
    Model("Falcon", 7e9, 1, 44.1, 41.6, 27.4, 25.1, 22.8),
    Model("OLMo-1.7", 7e9, 2.1, 47.0, 45.8, 54.0, 34.2, 33.0),
    Model("MAP-Neo", 7e9, 4.5, 50.2, 49.0, 57.1, 40.4, 39.2),
    Model("FineWeb-Edu", 7e9, 0.14, 38.7, 36.1, 26.3, 22.1, 19.7),
    Model("FineWeb-Edu", 7e9, 0.28, 41.9, 39.6, 37.3, 24.5, 22.4),
    Model("DCLM-Baseline", 7e9, 0.14, 44.1, 42.0, 38.3, 25.0, 23.0),
    Model("DCLM-Baseline", 7e9, 0.28, 48.9, 47.3, 50.8, 31.8, 30.3),
    Model("DCLM-Baseline", 7e9, 2.6, 57.1, 56.0, 63.7, 45.4, 44.3),
)
DCLM_SCALES = {0.14: "7b-1x", 0.28: "7b-2x"}

# method: (ImageNet, average of 38, size of the dataset in samples) by scale
DATACOMP: dict[str, dict[str, tuple[float, float, float]]] = {
    "no_filter": {
        "small": (0.025, 0.132, 12.8e6),
        "medium": (0.176, 0.258, 128e6),
        "large": (0.459, 0.437, 1.28e9),
        "xlarge": (0.723, 0.621, 12.8e9),
    },
    "basic": {
        "small": (0.038, 0.142, 3e6),
        "medium": (0.226, 0.285, 30e6),
        "large": (0.516, 0.458, 298e6),
    },
    "text": {
        "small": (0.046, 0.157, 3.2e6),
        "medium": (0.255, 0.307, 31e6),
        "large": (0.561, 0.466, 317e6),
    },
    "image": {
        "small": (0.043, 0.159, 3e6),
        "medium": (0.268, 0.312, 29e6),
        "large": (0.572, 0.476, 293e6),
    },
    "LAION-2B": {
        "small": (0.031, 0.133, 1.3e6),
        "medium": (0.230, 0.292, 13e6),
        "large": (0.553, 0.501, 130e6),
        "xlarge": (0.755, 0.636, 1.3e9),
    },
    "CLIP L/14 30%": {
        "small": (0.051, 0.173, 3.8e6),
        "medium": (0.273, 0.328, 38e6),
        "large": (0.578, 0.529, 384e6),
        "xlarge": (0.764, 0.650, 3.8e9),
    },
    "image ∩ CLIP L/14 30%": {
        "small": (0.039, 0.144, 1.4e6),
        "medium": (0.297, 0.328, 14e6),
        "large": (0.631, 0.537, 140e6),
        "xlarge": (0.792, 0.663, 1.4e9),
    },
}
DATACOMP_SEEN = {
    "small": 12_800_000,
    "medium": 128_000_000,
    "large": 1_280_000_000,
    "xlarge": 12_800_000_000,
}


def reference_rows() -> list[Row]:
    """All reference rows."""
    return [*(_dclm(model) for model in DCLM), *_datacomp()]


def put_references(store: Store) -> int:
    """Put the reference rows on the board; returns how many are new."""
    return sum(
        store.import_row(row, kind="reference", who="service", why=f"printed in {row.source}")
        for row in reference_rows()
    )


def figure(value: float) -> Figure:
    """A printed figure: one value, no known error."""
    return Figure(values=(value,), item_error=None, higher_is_better=True)


def _dclm(model: Model) -> Row:
    told = {
        "core_v2": model.core_v2,
        "core_v1": model.core_v1,
        "mmlu": model.mmlu,
        "extended_v2": model.extended_v2,
        "extended_v1": model.extended_v1,
    }
    figures = {name: figure(value / 100) for name, value in told.items() if value is not None}
    tokens = None if model.tokens is None else model.tokens * 1e12
    scale = DCLM_SCALES.get(model.tokens or 0, "7b-open")
    size = None if tokens is None or scale != "7b-open" else tokens
    return published_row(
        kind="reference",
        benchmark="dclm",
        scale=scale,
        track="filtering" if scale != "7b-open" else "models",
        pool="published",
        suite="extended",
        suite_version="2",
        method=model.method,
        headline="core_v2",
        figures=figures,
        unit="tokens",
        seen=None if tokens is None else int(tokens),
        size=None if size is None else int(size),
        params=int(model.params),
        flops=None if tokens is None else 6 * model.params * tokens,
        source=DCLM_SOURCE,
    )


def _datacomp() -> list[Row]:
    found = []
    for method, scales in DATACOMP.items():
        for scale, (imagenet, average, size) in scales.items():
            found.append(
                published_row(
                    kind="reference",
                    benchmark="datacomp",
                    scale=scale,
                    track="filtering",
                    pool="published",
                    suite="full",
                    suite_version="1",
                    method=method,
                    headline="average",
                    figures={"average": figure(average), "imagenet": figure(imagenet)},
                    unit="samples",
                    seen=DATACOMP_SEEN[scale],
                    size=int(size),
                    params=None,
                    flops=None,
                    source=DATACOMP_SOURCE,
                )
            )
    return found


def published_row(
    *,
    kind: str,
    benchmark: str,
    scale: str,
    track: str,
    pool: str,
    suite: str,
    suite_version: str,
    method: str,
    headline: str,
    figures: dict[str, Figure],
    unit: str,
    seen: int | None,
    size: int | None,
    params: int | None,
    flops: float | None,
    source: str,
    tasks: tuple[object, ...] = (),
    team: str = "",
    date: str = "",
    identity: str = "",
) -> Row:
    """A row that was published elsewhere. Its id is a hash of what it says."""
    head = figures[headline]
    id_ = digest(
        [
            kind,
            benchmark,
            scale,
            track,
            method,
            identity,
            seen,
            source,
            {name: one.values for name, one in figures.items()},
        ]
    )
    return Row.model_validate(
        {
            "kind": kind,
            "benchmark": benchmark,
            "scale": scale,
            "track": track,
            "pool_id": pool,
            "pool_name": f"{pool} figures, not a pool of this board",
            "suite": suite,
            "suite_version": suite_version,
            "method": method if len(method) <= 120 else f"{method[:110]}~{digest(method)[:8]}",
            "team": team,
            "submission_id": id_,
            "dataset_id": "",
            "headline": Headline(
                metric=headline,
                value=head.value,
                stderr=head.stderr,
                higher_is_better=head.higher_is_better,
            ),
            "budget": Budget(unit=unit, seen=seen),
            "dataset": Size(size=size, unit=unit),
            "kept_fraction": None,
            "params": params,
            "flops": flops,
            "seeds": (SeedScore(seed=0, value=head.value),),
            "tasks": tasks,
            "aggregates": {name: one.value for name, one in figures.items()},
            "figures": figures,
            "date": date,
            "source": source,
        }
    )
