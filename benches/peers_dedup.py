"""Other libraries' deduplication, run by bench_dedup.py in an environment of their own.

    python peers_dedup.py rensa|datatrove|dolma FILE

Prints one JSON object: CPU-seconds and bytes of text, and what was found.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import shutil
import site
import sys
import time
from pathlib import Path
from typing import Any

BANDS, ROWS, NGRAM = 14, 8, 5


def main() -> None:
    kind, file = sys.argv[1], Path(sys.argv[2])
    print(json.dumps({"rensa": rensa, "datatrove": datatrove, "dolma": dolma}[kind](file)))


def texts_of(file: Path) -> list[str]:
    import orjson
    import zstandard

    with open(file, "rb") as raw:
        data = zstandard.ZstdDecompressor().stream_reader(raw).read()
    return [orjson.loads(line)["text"] for line in data.splitlines()]


def rensa(file: Path) -> dict[str, Any]:
    """Signatures, index and candidates; the pairs are those of neighbouring rows 2i, 2i + 1."""
    from rensa import RMinHash, RMinHashLSH

    started = time.process_time()
    texts = texts_of(file)
    read = time.process_time()
    signed = []
    for text in texts:
        words = text.split()
        shingles = [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
        signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
        signature.update(shingles)
        signed.append(signature)
    done = time.process_time()
    index = RMinHashLSH(threshold=0.8, num_perm=BANDS * ROWS, num_bands=BANDS)
    for row, signature in enumerate(signed):
        index.insert(row, signature)
    actual = [row + 1 in index.query(signed[row]) for row in range(0, len(signed), 2)]
    return {
        "bytes": sum(len(text.encode()) for text in texts),
        "signature_seconds": done - read,
        "seconds": time.process_time() - started,
        "found": actual,
    }


def datatrove(file: Path) -> dict[str, Any]:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    step = MinhashDedupSignature(str(file.parent / "datatrove"), config=config)
    texts = texts_of(file)
    step.get_signature(step.get_shingles(texts[0]))  # loads the tokenizer
    started = time.process_time()
    for text in texts:
        step.get_signature(step.get_shingles(text))
    seconds = time.process_time() - started
    return {"bytes": sum(len(text.encode()) for text in texts), "signature_seconds": seconds}


def dolma(file: Path) -> dict[str, Any]:
    """Paragraphs by 13-grams at 0.8 in a filter of 128 MB, less a dedup by id: its I/O."""
    import gzip

    import orjson

    path = glob.glob(f"{site.getsitepackages()[0]}/dolma/*.so")[0]
    spec = importlib.util.spec_from_file_location("dolma", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = file.parent / "dolma"
    texts = texts_of(file)

    def run(name: str, how: dict[str, Any]) -> float:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "documents").mkdir(parents=True)
        with gzip.open(folder / "documents" / "0.json.gz", "wb", compresslevel=1) as out:
            for row, text in enumerate(texts):
                out.write(orjson.dumps({"id": str(row), "text": text, "source": "b"}) + b"\n")
        config = {
            "documents": [str(folder / "documents" / "0.json.gz")],
            "work_dir": {"input": str(folder / "in"), "output": str(folder / "out")},
            "dedupe": {"name": name, **how},
            "bloom_filter": {
                "file": str(folder / "filter.bin"),
                "size_in_bytes": 128 << 20,
                "read_only": False,
                "estimated_doc_count": 100_000_000,
                "desired_false_positive_rate": 0.01,
            },
            "processes": 1,
        }
        started = time.process_time()
        module.deduper_entrypoint(json.dumps(config))
        return time.process_time() - started

    grams = {"ngram_length": 13, "stride": 0, "overlap_threshold": 0.8}
    grams |= {"skip_short_paragraphs": True}
    whole = run("grams", {"paragraphs": {"attribute_name": "dup", "by_ngram": grams}})
    floor = run("ids", {"documents": {"attribute_name": "dup", "key": "$.id"}})
    shutil.rmtree(folder)
    size = sum(len(text.encode()) for text in texts)
    return {"bytes": size, "seconds": whole, "floor_seconds": floor}


if __name__ == "__main__":
    main()
