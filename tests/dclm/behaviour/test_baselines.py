"""The reference pipelines: each is read, and DCLM-Baseline runs end to end with small assets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from leaderboard import rules
from pipelines import installed
from pipelines.assets.catalogue import Assets, cache_folder
from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.pipeline import Pipeline

LISTS = (
    "refinedweb_banned_domains_curated.txt",
    "refinedweb_banned_words_strict_reverse_engineered.txt",
    "refinedweb_banned_words_hard_reverse_engineered.txt",
    "refinedweb_banned_words_soft_reverse_engineered.txt",
    "iana_tlds.txt",
)
DOCS = Path(__file__).parents[3] / "docs"


def pages() -> tuple[list[str], list[str]]:
    """Real prose, three paragraphs of the documentation to a page: each third page, and the others.

    A classifier that is trained on all of them knows the first by heart.
    """
    made = []
    for path in sorted(DOCS.rglob("*.md")):
        blocks = [" ".join(block.split()) for block in path.read_text().split("\n\n")]
        prose = [
            block.replace("`", "")
            for block in blocks
            if len(block.split()) > 30 and not set(block) & set("|[{$#*<>/")
        ]
        made += ["\n".join(prose[n : n + 3]) for n in range(0, len(prose) - 2, 3)]
    return made[::3], [page for number, page in enumerate(made) if number % 3]


def steps_of(benchmark: str, name: str) -> list[Any]:
    path = installed.folder(benchmark) / "baselines" / f"{name}.yaml"
    return list(yaml.safe_load(path.read_text())["steps"])


@pytest.mark.parametrize(
    ("benchmark", "name"),
    [(book, name) for book in ("dclm", "datacomp") for name in rules.baselines(book)],
)
def test_every_baseline_is_a_pipeline_of_its_name(benchmark: str, name: str) -> None:
    pipeline = Pipeline.load(installed.folder(benchmark) / "baselines" / f"{name}.yaml")
    assert pipeline.name == name
    assert pipeline.description


def test_dclm_baseline_begins_with_the_rules_of_refinedweb() -> None:
    rules_ = steps_of("dclm", "dclm_baseline_refinedweb")
    whole = steps_of("dclm", "dclm_baseline")
    assert whole[: len(rules_)] == rules_
    rest = [next(iter(step)) for step in whole[len(rules_) :]]
    assert rest == ["ngram_bloom_dedup", "quality_score", "token_count", "select"]


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    """Word lists of one line, and a classifier of two sentences, under the reference's names."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in LISTS:
        (folder / name).write_text("com\n" if name.startswith("iana") else "unlikelyword\n")
    good, plain = pages()
    train = tmp_path / "train.txt"
    lines = [f"__label__hq {text}" for text in good] + [f"__label__cc {text}" for text in plain]
    train.write_text("\n".join(line.replace("\n", " ") for line in lines))
    model = fasttext.train_supervised(str(train), dim=16, epoch=200, lr=1.0, wordNgrams=2)
    model.save_model(str(folder / "fasttext_oh_eli5.bin"))
    return Assets(folders=(folder,))


def test_dclm_baseline_runs_from_pages_to_the_best_tenth(tmp_path: Path, assets: Assets) -> None:
    for name in ("lid.176.ftz", "gpt-neox-20b.json"):
        if not (cache_folder() / "assets" / name).is_file():
            pytest.skip(f"{name} is not in the cache: pipelines assets fetch {name}")
    folder = tmp_path / "pool"
    folder.mkdir()
    good, plain = pages()
    texts = [*good, *plain, *plain[:5]]  # copies, for the Bloom filter
    metadata = [{"WARC-Target-URI": f"https://example.com/{n}"} for n in range(len(texts))]
    table = pa.table({"text": texts, "metadata": metadata})
    pq.write_table(table, folder / "0.parquet")
    spec = yaml.safe_load(
        (installed.folder("dclm") / "baselines" / "dclm_baseline.yaml").read_text()
    )
    for step in spec["steps"]:
        if isinstance(step, dict) and "ngram_bloom_dedup" in step:
            step["ngram_bloom_dedup"] |= {"groups": 1, "expected_ngrams": 100_000}
    pipeline = Pipeline.from_steps(spec["steps"], name="dclm_baseline", assets=assets)
    result = run(pipeline, open_pool(str(folder)), out=str(tmp_path / "out"))
    counts = result.record.counts
    steps = {step.name: step for step in result.summary.stats.steps}
    judged = steps["quality_score"]
    assert judged.rows_in >= 20, "the rules of RefinedWeb left too little of the prose"
    assert steps["ngram_bloom_dedup"].rejected >= 1
    assert 0 < counts["rows_out"] <= 0.5 * judged.rows_in
    kept = [
        row["text"]
        for path in sorted((tmp_path / "out" / "data").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    chosen = {text.split("\n")[0] for text in good}
    assert len(kept) == counts["rows_out"]
    right = sum(text.split("\n")[0] in chosen for text in kept)
    assert right >= 0.8 * len(kept), (right, len(kept))  # those that the classifier likes
