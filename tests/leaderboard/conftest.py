"""A benchmark of our own, as a third party would add one: a directory and an entry point.

It is DCLM with a smaller pool, recipe and suite, so that a whole round takes seconds.
"""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from evals.metrics import bootstrap
from pipelines import installed

RULES = {
    "name": "mini",
    "version": "1",
    "title": "A benchmark for tests",
    "modality": "text",
    "description": "DCLM, smaller.",
    "budget_unit": "tokens",
    "size_unit": "tokens",
    "size_count": "tokens",
    "tracks": [{"name": "filtering", "pool": "given", "description": "Curate the pool."}],
    "scales": [
        {"name": "mini", "recipe": "mini", "suite": "mini", "suite_version": "1", "pools": "open"}
    ],
}

STAGES = """
from pathlib import Path

from dclm.benchmark import DCLM

HERE = Path(__file__).parent


class Mini(DCLM):
    name = "mini"

    def check_training(self, packed, model, recipe):
        faults = super().check_training(packed, model, recipe)
        return [fault for fault in faults if "installed one" not in fault]  # DCLM's own recipes

    def train(self, packed, recipe, *, seed, out, **options):
        from pipelines.records import ModelRecord

        made = super().train(packed, recipe, seed=seed, out=out, **options)
        ours = ModelRecord.seal(
            work=made.work.model_copy(update={"benchmark": "mini"}), parents=made.parents,
            outputs=made.outputs, counts=made.counts, results=made.results, made_by=made.made_by,
        )
        (Path(out) / "record.json").write_bytes(ours.to_json())
        return ours

    def open_pool(self, scale, *, workspace, map_tasks):
        return self.open_tables(str(HERE / "pool"))

    def assets(self, scale, *, workspace):
        from dclm.pool.pool import ASSETS
        from pipelines.assets.catalogue import Assets

        return Assets(folders=(ASSETS,))

    def recipe(self, name):
        return super().recipe(str(HERE / f"{name}.yaml") if name == "mini" else name)

    def eval_data(self, scale, *, workspace):
        return str(HERE / "eval")

    def commands(self):
        import typer

        return typer.Typer()
"""


def sentences(number: int, words: tuple[str, ...], *, seed: int) -> str:
    """Grammatical-looking sentences from a word list, without chance."""
    parts = []
    for k in range(number):
        chosen = [words[(seed * 31 + k * 7 + j * j * 3) % len(words)] for j in range(9)]
        parts.append(" ".join(chosen).capitalize() + ".")
    return " ".join(parts)


GOOD = tuple(
    "the river runs past old stone houses and people walk slowly home with fresh bread".split()  # noqa: SIM905
)
BAD = tuple("click buy cheap 999 offer now win $$$ free casino pills www best deal".split())  # noqa: SIM905


def write_benchmark(folder: Path) -> None:
    from dclm.recipe import load_recipe
    from evals.text.heldout import build_tiny_tasks

    package = folder / "minibench"
    (package / "pool").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "stages.py").write_text(STAGES)
    (package / "benchmark.yaml").write_text(yaml.safe_dump(RULES))
    recipe = load_recipe("tiny").model_dump(mode="json")
    recipe |= {"scale": "mini", "tokens": 64 * 4 * 20, "warmup_steps": 2}
    recipe["model"] |= {"dim": 32, "num_layers": 1, "num_heads": 2, "seq_len": 64}
    (package / "mini.yaml").write_text(yaml.safe_dump(recipe))
    (package / "suites").mkdir()
    (package / "suites" / "mini.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "mini",
                "version": "1",
                "benchmark": "mini",
                "description": "Held-out text.",
                "window": 64,
                "tasks": ["heldout_bits_per_byte", "heldout_ending"],
                "headline": "bits_per_byte",
                "aggregates": [
                    {
                        "name": "bits_per_byte",
                        "how": "task",
                        "tasks": ["heldout_bits_per_byte"],
                        "higher_is_better": False,
                    }
                ],
            }
        )
    )
    for shard in range(2):
        texts = []
        for n in range(30):
            words = GOOD if n % 3 == 0 else BAD
            texts.append(sentences(20, words, seed=shard * 100 + n))
        urls = [f"https://example.org/{shard}/{n}" for n in range(30)]
        pq.write_table(
            pa.table({"text": texts, "url": urls}), package / "pool" / f"{shard}.parquet"
        )
    heldout = folder / "heldout.jsonl.gz"
    rows = [
        {"id": f"h{n}", "source": "s", "text": _varied(n), "licence": "CC0"} for n in range(450)
    ]
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    heldout.write_bytes(gzip.compress(data, mtime=0))
    build_tiny_tasks(heldout, package / "eval", seed=1)
    info = folder / "minibench-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: minibench\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[curation_bench.benchmarks]\nmini = minibench.stages:Mini\n"
    )


def _varied(seed: int) -> str:
    """Prose whose sentences differ, so that a question has one right answer."""
    kinds = ("bread", "letters", "apples", "stories", "lanterns", "maps", "violins")
    parts = []
    for k in range(8):
        kind = kinds[(seed + k) % len(kinds)]
        parts.append(
            f"In the house number {seed * 8 + k} near the river people keep {kind} "
            f"and walk home slowly when evening number {seed + 3 * k} comes."
        )
    return " ".join(parts)


@pytest.fixture(scope="session")
def written_benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the test benchmark, not installed."""
    folder = tmp_path_factory.mktemp("minibench")
    write_benchmark(folder)
    return folder


@pytest.fixture(scope="module")
def minibench(written_benchmark: Path) -> Iterator[Path]:
    """The folder of the test benchmark, installed until the module's tests are done."""
    sys.path.insert(0, str(written_benchmark))
    importlib.invalidate_caches()
    installed.points.cache_clear()
    yield written_benchmark
    sys.path.remove(str(written_benchmark))
    importlib.invalidate_caches()
    installed.points.cache_clear()


@pytest.fixture(autouse=True)
def no_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up logs are of made-up questions: what is pinned of the real ones does not hold here."""
    monkeypatch.setattr("evals.pins.pins", dict)


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """20 bootstrap draws instead of 1,000, in bundles that a module builds and in their checks.

    For tests of everything but the resamples.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.run.bootstrap", partial(bootstrap, num_draws=20))
        patch.setattr("evals.images.generation.NUM_DRAWS", 20)
        yield
