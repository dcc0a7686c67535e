"""Text curation speed: our operators against their plain-Python statements and other libraries.

    python benches/bench_text.py [--pages FILE] [--assets DIR] [--peer-documents 60]

Every row is UTF-8 megabytes per CPU-second of one process, on the same pages in the same run. A
slow peer sees only some pages; its rate is per byte. The oracle of the DCLM pipeline is
`tests/pipelines/text`'s plain statement with uniseg words, equal to the reference on the recorded
results. Writes build/bench/text.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import plain_text
import pyarrow as pa

from pipelines import kernels
from pipelines.assets.catalogue import AssetError, Assets
from pipelines.batch import Batch, cut
from pipelines.operators import Counted, Operator
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.text import repetition

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "bench"
SHARED = ROOT.parent / "shared"
NOT_TIMED = ("url_from_metadata", "url_substrings", "language_id", "language", "language_scores")
NOT_TIMED += (
    "mask_personal_data",
    "language_from_scores",
    "value_counts",
    "exact_dedup",
    "rename_field",
    "token_count",
)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pages", type=Path, default=SHARED / "data" / "web" / "extracted_text.jsonl.gz"
    )
    parser.add_argument(
        "--assets", type=Path, default=SHARED / "fixtures" / "dclm-processing" / "data"
    )
    parser.add_argument("--peer-documents", type=int, default=60, help="pages for slow peers")
    arguments = parser.parse_args()
    with gzip.open(arguments.pages) as file:
        texts = [orjson.loads(line)["text"] for line in file]
    assets = Assets(folders=(arguments.assets,))
    before = calibration()
    rows = measure(texts, assets, arguments.peer_documents)
    report = {
        "machine": f"{platform.machine()}, 1 of {os.cpu_count()} cores, calibration "
        f"{before:.3f} s before and {calibration():.3f} s after",
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "text.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{'work':52} {'ours':>8} {'peer':>8} {'ratio':>7} {'at least':>9}  peer")
    for row in rows:
        shown = [
            "-" if row[key] is None else f"{row[key]:.2f}" for key in ("ours", "peer", "ratio")
        ]
        print(
            f"{row['work']:52} {shown[0]:>8} {shown[1]:>8} {shown[2]:>7} {row['at_least']!s:>9}  "
            f"{row['peer_name']}"
        )


def calibration() -> float:
    """CPU-seconds of a fixed loop: how busy the machine is."""
    started = time.process_time()
    sum(number * number for number in range(1_000_000))
    return time.process_time() - started


def measure(texts: Sequence[str], assets: Assets, few: int) -> list[Row]:
    size = megabytes(texts)
    tables = cut(pa.table({"text": pa.array(texts, type=STRING)}))
    arrays = [table.column("text").chunk(0) for table in tables]

    def rate(function: Callable[[pa.Array], object]) -> float:
        function(arrays[0])
        best = min(timed(lambda: [function(array) and None for array in arrays]) for _ in range(3))
        return size / best

    some = texts[:: max(len(texts) // few, 1)]
    peer_size = megabytes(some)
    rows = [
        row("words: whitespace", rate(kernels.words.whitespace), 300, *split_peer(texts)),
        row("words: UAX #29 with hashes", rate(kernels.words.uax29), 180, *uniseg_peer(some)),
        row(
            "line and word statistics in one pass",
            rate(lambda array: (kernels.stats.documents(array), None)),
            120,
        ),
    ]
    oracle = repetition.GopherRepetition(every_copy=True)
    peer = peer_size / timed(lambda: [oracle.first_failure(text) for text in some])
    ours = rate(lambda array: (oracle.reject(Batch(pa.table({"text": array}))), None))
    rows.append(row("Gopher repetition, UAX #29", ours, "30x", peer, "plain Python statement"))
    for name, at_least in (
        ("dclm_baseline_refinedweb", 18),
        ("c4", 20),
        ("gopher", 40),
        ("fineweb", 40),
    ):
        path = ROOT / "dclm" / "baselines" / f"{name}.yaml"
        try:
            run = chain(Pipeline.load(path, assets=assets))
        except (AssetError, ValueError) as error:
            rows.append(row(f"{name}: not measured: {error}"[:120], None, at_least))
            continue
        rows += peers_of(name, run, some)
        seconds = min(timed(lambda run=run: [run(array) for array in arrays]) for _ in range(2))  # type: ignore[misc]
        rows.append(row(f"{name}, rules on text", size / seconds, at_least))
    rows += fasttext_rows(texts, arrays, assets)
    return rows


def peers_of(name: str, run: Callable[[pa.Array], list[str]], some: Sequence[str]) -> list[Row]:
    """The same rules elsewhere, over some of the pages, and ours over the same ones."""
    array = pa.array(some, type=STRING)
    run(array)
    seconds = min(timed(lambda: run(array)) for _ in range(5))
    ours = megabytes(some) / seconds
    if name == "dclm_baseline_refinedweb":
        peer, told = plain_peer(some, run)
        return [row(f"{name}, some pages", ours, "30x", peer, told)]
    if name == "fineweb":
        peer, told = datatrove_peer(some)
        return [row(f"{name}, some pages", ours, "100x", peer, told)]
    return []


def plain_peer(some: Sequence[str], run: Any) -> tuple[float | None, str]:
    """The plain oracle with uniseg; SystemExit when it keeps other texts than we do."""
    try:
        plain_text.use_uniseg()
    except ImportError:
        return None, "uniseg is not installed"
    made: list[str | None] = []
    seconds = timed(lambda: made.extend(plain_text.survivor(run.steps, text) for text in some))
    if [text for text in made if text is not None] != run(pa.array(some, type=STRING)):
        raise SystemExit("the plain oracle keeps other texts than the compiled chain")
    return megabytes(some) / seconds, "plain Python with uniseg, the same survivors"


def datatrove_peer(some: Sequence[str]) -> tuple[float | None, str]:
    """datatrove's filters, in the environment of bench_dedup.py."""
    from bench_dedup import peer_python

    file = BUILD / "peer-texts.json"
    file.write_text(json.dumps(list(some)))
    command = [str(peer_python()), str(Path(__file__).with_name("peers_text.py")), str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return None, f"datatrove failed: {done.stderr.splitlines()[-1]}"
    found = json.loads(done.stdout.splitlines()[-1])
    return found["bytes"] / 1e6 / found["seconds"], "datatrove, Gopher + C4 + FineWeb"


def chain(pipeline: Pipeline) -> Any:
    """The row-wise rules on text of a pipeline, rows dropped as they go; returns what is left."""
    steps: list[Operator] = [s.operator for s in pipeline.steps if s.name not in NOT_TIMED]
    for step in steps:
        step.load(pipeline.assets)

    def run(array: pa.Array) -> list[str]:
        batch = Batch(pa.table({"text": array}))
        for step in steps:
            if step.kind == "filter":
                reasons = value_of(step.reject(batch))  # type: ignore[attr-defined]
                if reasons.null_count != len(reasons):
                    batch = batch.keep(reasons.is_null().to_numpy(zero_copy_only=False))
            else:
                batch = batch.write(value_of(step.modify(batch)))  # type: ignore[attr-defined]
                if batch.text.null_count:
                    batch = batch.keep(batch.text.is_valid().to_numpy(zero_copy_only=False))
        return batch.text.to_pylist()  # type: ignore[no-any-return]

    run.steps = steps  # type: ignore[attr-defined]
    return run


def value_of(result: Any) -> Any:
    return result.value if isinstance(result, Counted) else result


def fasttext_rows(texts: Sequence[str], arrays: list[pa.Array], assets: Assets) -> list[Row]:
    """Language identification over whole pages, against the library."""
    try:
        path = assets.path("lid.176.ftz")
        import fasttext
    except (AssetError, ImportError) as error:
        return [row(f"language id: not measured: {error}"[:120], None, "5x")]
    ours, theirs = kernels.fasttext.read(path), fasttext.load_model(str(path)).f
    ours.top(arrays[0])
    answers: list[Any] = []
    labels: list[int] = []
    seconds = timed(lambda: [labels.extend(ours.top(array)[0].tolist()) for array in arrays])
    flat = [text.replace("\n", " ") + "\n" for text in texts]
    peer = timed(lambda: answers.extend(theirs.predict(line, 1, 0.0, "strict") for line in flat))
    equal = np.mean([ours.labels[n] == a[0][1] for n, a in zip(labels, answers, strict=True)])
    size = megabytes(texts)
    name = f"fastText library, {equal:.2%} of labels equal"
    return [row("language id, lid.176.ftz, whole pages", size / seconds, "5x", size / peer, name)]


def split_peer(texts: Sequence[str]) -> tuple[float, str]:
    return megabytes(texts) / timed(lambda: [text.split() for text in texts]), "str.split"


def uniseg_peer(texts: Sequence[str]) -> tuple[float | None, str]:
    try:
        from uniseg.wordbreak import words
    except ImportError:
        return None, "uniseg is not installed"
    seconds = timed(lambda: [list(words(text)) for text in texts])
    return megabytes(texts) / seconds, "uniseg"


def row(
    work: str,
    ours: float | None,
    at_least: object,
    peer: float | None = None,
    peer_name: str = "",
) -> Row:
    ratio = ours / peer if ours is not None and peer else None
    found = {"work": work, "ours": ours, "unit": "MB per CPU-second", "peer": peer}
    return {**found, "peer_name": peer_name, "ratio": ratio, "at_least": at_least}


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6


def timed(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    main()
