"""Text curation speed: our operators against their plain-Python statements and other libraries.

    python benches/bench_text.py [--pages FILE] [--assets DIR] [--peer-documents 60] [--only PART]

Every row is UTF-8 megabytes per CPU-second of one process, on the same pages in the same run. A
slow peer sees only some pages; its rate is per byte. The oracle of the DCLM pipeline is
`tests/pipelines/text`'s plain statement with uniseg words, equal to the reference on the recorded
results. Writes build/bench/text.json; ends with 1 when a floor is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import plain_text
import pyarrow as pa
import zstandard
from rows import Rows

from pipelines import kernels
from pipelines.assets.catalogue import AssetError, Assets
from pipelines.batch import Batch, cut
from pipelines.operators import Counted, Operator
from pipelines.pipeline import Pipeline
from pipelines.schema import STRING
from pipelines.text import repetition
from pipelines.text.bpe import BatchEncoder
from pipelines.text.contamination import ItemGrams
from pipelines.text.quality import Classifiers, library_score, load_fasttext, one_line
from pipelines.text.similar_items import SimilarItems

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

UNIT = "MB/CPU-s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pages", type=Path, default=SHARED / "data" / "web" / "extracted_text.jsonl.gz"
    )
    parser.add_argument(
        "--assets", type=Path, default=SHARED / "fixtures" / "dclm-processing" / "data"
    )
    parser.add_argument("--peer-documents", type=int, default=60, help="pages for slow peers")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    with gzip.open(arguments.pages) as file:
        pages = [orjson.loads(line) for line in file]
    texts = [page["text"] for page in pages]
    english = [page["text"] for page in pages if page.get("lang") == "en"]
    assets = Assets(folders=(arguments.assets,))
    rows = Rows("text")
    arrays = [
        table.column("text").chunk(0)
        for table in cut(pa.table({"text": pa.array(texts, type=STRING)}))
    ]
    if "kernels" in arguments.only:
        kernel_rows(rows, texts, arrays, arguments.peer_documents)
    if "rules" in arguments.only:
        rule_rows(rows, texts, arrays, assets, arguments.peer_documents)
    if "fasttext" in arguments.only:
        language_row(rows, texts, arrays, assets)
        classifier_rows(rows, texts, arrays)
    if "tokens" in arguments.only:
        token_rows(rows, "English", english)
        token_rows(rows, "40 languages", texts)
    if "contamination" in arguments.only:
        contamination_row(rows, texts, arrays)
    if "whole" in arguments.only:
        whole_row(rows, texts, assets)
    rows.close(partial=len(arguments.only) < len(PARTS))


PARTS = ("kernels", "rules", "fasttext", "tokens", "contamination", "whole")


def kernel_rows(rows: Rows, texts: Sequence[str], arrays: list[pa.Array], few: int) -> None:
    size = megabytes(texts)
    some = texts[:: max(len(texts) // few, 1)]

    def rate(function: Callable[[pa.Array], object]) -> float:
        function(arrays[0])
        best = min(timed(lambda: [function(array) and None for array in arrays]) for _ in range(3))
        return size / best

    peer, peer_name = split_peer(texts)
    ours = rate(kernels.words.whitespace)
    rows.add("words: whitespace", ours, UNIT, floor=250, peer=peer, peer_name=peer_name)
    peer_, peer_name = uniseg_peer(some)
    ours = rate(kernels.words.uax29)
    rows.add("words: UAX #29 with hashes", ours, UNIT, floor=200, peer=peer_, peer_name=peer_name)
    ours = rate(lambda array: (kernels.stats.documents(array), None))
    rows.add("line and word statistics in one pass", ours, UNIT, floor=120)
    oracle = repetition.GopherRepetition(every_copy=True)
    peer = megabytes(some) / timed(lambda: [oracle.first_failure(text) for text in some])
    ours = rate(lambda array: (oracle.reject(Batch(pa.table({"text": array}))), None))
    rows.add(
        *("Gopher repetition, UAX #29", ours, UNIT),
        floor=30,
        floor_of="ratio",
        peer=peer,
        peer_name="plain Python statement",
    )


def rule_rows(
    rows: Rows, texts: Sequence[str], arrays: list[pa.Array], assets: Assets, few: int
) -> None:
    size = megabytes(texts)
    some = texts[:: max(len(texts) // few, 1)]
    for name, floor in (
        ("dclm_baseline_refinedweb", 30),
        ("c4", 30),
        ("gopher", 60),
        ("fineweb", 40),
    ):
        path = ROOT / "dclm" / "baselines" / f"{name}.yaml"
        try:
            run = chain(Pipeline.load(path, assets=assets))
        except (AssetError, ValueError) as error:
            rows.add(f"{name}, rules on text", None, UNIT, floor=floor, reason=str(error)[:120])
            continue
        for work, ours, peer, peer_name, least in peers_of(name, run, some):
            rows.add(
                *(work, ours, UNIT),
                floor=least,
                floor_of="ratio",
                peer=peer,
                peer_name=peer_name,
            )
        run(arrays[0])
        seconds = min(timed(lambda run=run: [run(array) for array in arrays]) for _ in range(3))  # type: ignore[misc]
        rows.add(f"{name}, rules on text", size / seconds, UNIT, floor=floor)
        if name == "dclm_baseline_refinedweb":
            drops = chain(Pipeline.load(path, assets=assets), drops_only=True)
            least = min(
                timed(lambda drops=drops: [drops(array) for array in arrays])  # type: ignore[misc]
                for _ in range(3)
            )
            rows.add(
                *(f"{name}, rules on text, by those that only drop", seconds / least),
                unit="times the CPU-seconds",
                floor=2,
                less=True,
            )


def peers_of(
    name: str, run: Callable[[pa.Array], list[str]], some: Sequence[str]
) -> list[tuple[str, float, float, str, float]]:
    """The same rules elsewhere, over some of the pages, and ours over the same ones: what, our
    rate, theirs, whose, and how many times theirs ours must be."""
    if name not in ("dclm_baseline_refinedweb", "fineweb"):
        return []
    array = pa.array(some, type=STRING)
    run(array)
    ours = megabytes(some) / min(timed(lambda: run(array)) for _ in range(5))
    work = f"{name}, some pages"
    if name == "fineweb":
        return [(work, ours, datatrove_peer(some), "datatrove, Gopher + C4 + FineWeb", 100)]
    return [(work, ours, plain_peer(some, run), "plain Python with uniseg, equal survivors", 30)]


def plain_peer(some: Sequence[str], run: Any) -> float:
    """The plain oracle with uniseg; SystemExit when it keeps other texts than we do."""
    plain_text.use_uniseg()
    made: list[str | None] = []
    seconds = timed(lambda: made.extend(plain_text.survivor(run.steps, text) for text in some))
    if [text for text in made if text is not None] != run(pa.array(some, type=STRING)):
        raise SystemExit("the plain oracle keeps other texts than the compiled chain")
    return megabytes(some) / seconds


def peer(work: str, *arguments: str) -> dict[str, Any]:
    """What a peer measures, in an environment of its own. SystemExit with its output when it
    fails."""
    from bench_dedup import peer_python

    command = [str(peer_python()), str(Path(__file__).with_name("peers_text.py")), work, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the peer {work} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def datatrove_peer(some: Sequence[str]) -> float:
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / "peer-texts.json"
    file.write_text(json.dumps(list(some)))
    figures = peer("rules", str(file))
    return float(figures["bytes"] / 1e6 / figures["seconds"])


def chain(pipeline: Pipeline, *, drops_only: bool = False) -> Any:
    """The row-wise rules on text of a pipeline, rows dropped as they go; returns what is left.

    With `drops_only`, without rewrites and the rule on what they removed.
    """
    steps: list[Operator] = [s.operator for s in pipeline.steps if s.name not in NOT_TIMED]
    if drops_only:
        steps = [s for s in steps if s.kind == "filter" and s.name != "words_removed"]
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


def language_row(rows: Rows, texts: Sequence[str], arrays: list[pa.Array], assets: Assets) -> None:
    """Language identification over whole pages, against the library."""
    import fasttext

    path = assets.path("lid.176.ftz")
    ours, theirs = kernels.fasttext.read(path), fasttext.load_model(str(path)).f
    ours.top(arrays[0])
    answers: list[Any] = []
    labels: list[int] = []
    seconds = timed(lambda: [labels.extend(ours.top(array)[0].tolist()) for array in arrays])
    flat = [text.replace("\n", " ") + "\n" for text in texts]
    peer = timed(lambda: answers.extend(theirs.predict(line, 1, 0.0, "strict") for line in flat))
    equal = np.mean([ours.labels[n] == a[0][1] for n, a in zip(labels, answers, strict=True)])
    size = megabytes(texts)
    rows.add(
        *("language id, lid.176.ftz, whole pages", size / seconds, UNIT),
        floor=5,
        floor_of="ratio",
        peer=size / peer,
        peer_name=f"fastText library, {equal:.2%} of labels equal",
    )


def classifier_model(texts: Sequence[str]) -> Path:
    """A classifier of DCLM's shape (bigrams, 100 numbers, 2 million buckets: 0.8 GB), trained on
    the pages: their first halves against their second halves with English words in them."""
    import fasttext

    path = BUILD / "quality-100.bin"
    if not path.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        lines = BUILD / "quality.txt"
        with lines.open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                label = "hq" if " the " in text and number % 3 else "cc"
                file.write(f"__label__{label} {one_line(text)}\n")
        options = {"dim": 100, "wordNgrams": 2, "epoch": 3, "bucket": 2_000_000, "minCount": 3}
        fasttext.train_supervised(str(lines), thread=1, verbose=0, **options).save_model(str(path))
    return path


def classifier_rows(rows: Rows, texts: Sequence[str], arrays: list[pa.Array]) -> None:
    """The quality classifier against the library; four of them in one reading."""
    path = classifier_model(texts)
    ours = Classifiers((path,), negative="__label__cc", exact_near=(0.5,))
    ours.scores(arrays[0], "squeeze")
    scores: list[float] = []

    def score() -> None:
        scores[:] = [s for array in arrays for s in ours.scores(array, "squeeze")[0].to_pylist()]

    seconds = min(timed(score) for _ in range(5))
    theirs = load_fasttext(path)
    expected: list[float] = []
    peer = timed(
        lambda: expected.extend(
            library_score(theirs, one_line(text), "__label__cc") for text in texts
        )
    )
    size = megabytes(texts)
    difference = float(np.abs(np.array(scores) - np.array(expected)).max())
    equal = sum((a >= 0.5) == (b >= 0.5) for a, b in zip(scores, expected, strict=True))
    reason = f"largest difference {difference:.1e}, {equal} of {len(texts)} labels equal"
    if difference > 2e-5 or equal < len(texts):
        raise SystemExit(f"the classifier is not the library: {reason}")
    rows.add(
        *("quality classifier, 2 M buckets", size / seconds, UNIT),
        floor=50,
        peer=size / peer,
        peer_name="fastText library",
        reason=reason,
    )
    four = Classifiers((path,) * 4, negative="__label__cc", exact_near=())
    four.scores(arrays[0], "squeeze")
    seconds = min(
        timed(lambda: [four.scores(array, "squeeze") and None for array in arrays])
        for _ in range(3)
    )
    rows.add("four quality classifiers in one reading", size / seconds, UNIT, floor=25)


def unseen(texts: Sequence[str], size: float) -> list[list[str]]:
    """`size` MB of text that nothing has seen: each line of a page begins elsewhere, and one in 25
    of its longer words is a new one. Batches of 256 pages."""
    chance = random.Random(5)
    batches: list[list[str]] = []
    made = 0.0
    while made < size:
        for begin in range(0, len(texts), 256):
            batch = [changed(text, chance) for text in texts[begin : begin + 256]]
            batches.append(batch)
            made += megabytes(batch)
            if made >= size:
                break
    return batches


def changed(text: str, chance: random.Random) -> str:
    lines = []
    for line in text.split("\n"):
        words = line.split(" ")
        if len(words) > 3:
            first = chance.randrange(len(words))
            words = words[first:] + words[:first]
        for index, word in enumerate(words):
            if len(word) > 4 and chance.random() < 0.04:
                letter = chance.randrange(len(word))
                words[index] = word[:letter] + chance.choice("etaoinshr") + word[letter + 1 :]
        lines.append(" ".join(words))
    return "\n".join(lines)


def token_rows(rows: Rows, name: str, texts: Sequence[str]) -> None:
    """gpt-neox-20b on text that no cache has seen, against tiktoken on a part of it."""
    try:
        data = tokenizer_file().read_bytes()
    except (AssetError, FileNotFoundError) as error:
        rows.add(f"tokenize, {name}", None, UNIT, floor=40, reason=str(error)[:120])
        return
    encoder = BatchEncoder(data)
    batches = unseen(texts, 200)
    size = sum(map(megabytes, batches))
    seconds = timed(lambda: [encoder.encode(batch) and None for batch in batches])
    part = batches[: max(len(batches) // 8, 1)]
    checked = [text for batch in part[:2] for text in batch][::5]
    ids, offsets = encoder.encode(checked)
    exact = encoder.exact.encode_batch_fast(checked, add_special_tokens=False)
    for row, encoding in enumerate(exact):
        if ids[offsets[row] : offsets[row + 1]].tolist() != encoding.ids:
            raise SystemExit(f"ids are not those of tokenizers: {checked[row][:200]!r}")
    file = BUILD / "peer-tokens.json"
    file.write_bytes(orjson.dumps({"tokenizer": data.decode(), "batches": part}))
    figures = peer("tiktoken", str(file))
    times = 5 if name == "English" else 4
    rows.add(
        *(f"tokenize gpt-neox, unseen, {name}, {size:.0f} MB", size / seconds, UNIT),
        floor=times,
        floor_of="ratio",
        peer_name="tiktoken",
        peer=figures["bytes"] / 1e6 / figures["seconds"],
        reason=f"{encoder.library}; {len(checked)} of {len(checked)} pages with the ids of "
        "tokenizers",
    )


def tokenizer_file() -> Path:
    given = SHARED / "fixtures" / "dclm-eval" / "gpt-neox-20b-tokenizer" / "tokenizer.json"
    return given if given.is_file() else Assets().path("gpt-neox-20b.json")


def contamination_row(rows: Rows, texts: Sequence[str], arrays: list[pa.Array]) -> None:
    """20,000 items of 40 words, made of the pages' own words; one in a hundred is in a page."""
    chance = random.Random(3)
    words = [word for text in texts[::7] for word in text.split()]
    items = [" ".join(chance.choices(words, k=40)) for _ in range(20_000)]
    for number in range(0, len(items), 100):
        actual = texts[chance.randrange(len(texts))].split()
        if len(actual) > 40:
            items[number] = " ".join(actual[:40])
    table = pa.table({"task": ["a"] * len(items), "text": pa.array(items, STRING)})
    known = ItemGrams(table)
    known.occurrences(arrays[0])
    seconds = min(timed(lambda: [known.occurrences(a) and None for a in arrays]) for _ in range(3))
    rows.add("decontamination, 20,000 items", megabytes(texts) / seconds, UNIT, floor=100)
    similar = SimilarItems(table)
    similar.matches(arrays[0])
    seconds = min(timed(lambda: [similar.matches(a) and None for a in arrays]) for _ in range(3))
    rows.add("decontamination by similarity", megabytes(texts) / seconds, UNIT, floor=100)


def whole_row(rows: Rows, texts: Sequence[str], assets: Assets) -> None:
    """Text in, tokens out: language, DCLM's rules, the classifier, the ids as bytes."""
    lid = kernels.fasttext.read(assets.path("lid.176.ftz"))
    classifiers = Classifiers((classifier_model(texts),), negative="__label__cc", exact_near=(0.5,))
    run = chain(
        Pipeline.load(ROOT / "dclm" / "baselines" / "dclm_baseline_refinedweb.yaml", assets=assets)
    )
    encoder = BatchEncoder(tokenizer_file().read_bytes())
    lines = b"\n".join(orjson.dumps({"text": text}) for text in texts)
    compressed = zstandard.ZstdCompressor(level=3).compress(lines)

    def work(data: bytes) -> int:
        read = [
            orjson.loads(line)["text"]
            for line in zstandard.ZstdDecompressor().decompress(data).split(b"\n")
        ]
        num_ids = 0
        for table in cut(pa.table({"text": pa.array(read, type=STRING)})):
            array = table.column("text").chunk(0)
            lid.top(array)
            left = run(array)
            classifiers.scores(pa.array(left, type=STRING), "lines")
            ids, _ = encoder.encode(left)
            num_ids += len(ids.astype("<u2").tobytes()) // 2
        return num_ids

    work(compressed)
    seconds = min(timed(lambda: work(compressed)) for _ in range(3))
    rows.add(
        *("text in, tokens out: DCLM-Baseline with classifier", seconds / megabytes(texts)),
        unit="CPU-s/MB",
        floor=0.45,
        less=True,
    )


def split_peer(texts: Sequence[str]) -> tuple[float, str]:
    return megabytes(texts) / timed(lambda: [text.split() for text in texts]), "str.split"


def uniseg_peer(texts: Sequence[str]) -> tuple[float, str]:
    from uniseg.wordbreak import words

    seconds = timed(lambda: [list(words(text)) for text in texts])
    return megabytes(texts) / seconds, "uniseg"


def megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode("utf-8")) for text in texts) / 1e6


def timed(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    main()
