"""The last table of every bench, as docs/performance.md.

    python benches/tables.py [FILE.json ...]

Takes build/bench/*.json unless files are named. A section of the page that has no new file stays as
it is, with its date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from rows import number

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
TITLES = {
    "cluster": "Ray and S3",
    "clip_eval": "Evaluating CLIP, and training it",
    "clip_loader": "The loader of images",
    "datacomp": "Curating image-text pools",
    "dedup": "Deduplication",
    "download": "Fetching images",
    "eval": "Evaluating language models",
    "find": "Finding a passage",
    "extract": "WARC to documents",
    "gpu": "On one GPU",
    "leaderboard": "The leaderboard",
    "text": "Curating text",
    "train": "Training language models",
}
HEAD = """# Performance

The last table of each bench, measured side by side with a peer on the same input in the same run.
`make bench` measures all of them again (peers go into environments of their own), and
`python benches/tables.py` writes this page. Rates are per CPU-second unless they say otherwise, on
a shared machine with two cores: read ratios, not absolute figures. A figure that could not be
measured is a dash with its reason, a missed floor is bold. [Profiles](performance/text-profiles.md)
show where the time of the largest gains went, [growth](performance/growth.md) time and memory
of every stage at 1, 4 and 16 times the input.
"""


def main() -> None:
    named = [Path(name) for name in sys.argv[1:]]
    files = named or sorted((ROOT / "build" / "bench").glob("*.json"))
    sections = read_page()
    for file in files:
        report = json.loads(file.read_text())
        if file.stem in TITLES and report.get("rows"):
            sections[file.stem] = section(file.stem, report)
    body = "\n".join(sections[name] for name in sorted(sections, key=lambda name: TITLES[name]))
    PAGE.write_text(f"{HEAD}\n{body}")


def read_page() -> dict[str, str]:
    """The sections that are there, by the name of their bench."""
    if not PAGE.is_file():
        return {}
    collected = {}
    for part in re.split(r"^(?=## )", PAGE.read_text(), flags=re.M)[1:]:
        title = part.partition("\n")[0].removeprefix("## ").strip()
        name = next((name for name, known in TITLES.items() if known == title), None)
        if name is not None:
            collected[name] = part.rstrip() + "\n"
    return collected


def section(name: str, report: dict[str, Any]) -> str:
    lines = [
        f"## {TITLES[name]}",
        "",
        f"`benches/bench_{name}.py`, {report.get('date', 'undated')}, {report.get('machine', '')}.",
        "",
        "| work | ours | peer | ratio | at least | unit |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in report["rows"]:
        peer = row.get("peer", row.get("plain"))
        peer_name = f" ({row['peer_name']})" if row.get("peer_name", "-") not in ("-", "") else ""
        ratio = row.get("ratio")
        if ratio is None and row.get("ours") is not None and peer:
            ratio = row["ours"] / peer
        unit = row.get("unit", "")
        reason = f"; {row['reason']}" if row.get("reason") else ""
        shown = "-" if peer is None else f"{number(peer)}{peer_name}"
        lines.append(
            f"| {row['work']} | {number(row.get('ours'))} | {shown} | {number(ratio)} | "
            f"{floor_of(row)} | {unit}{reason} |"
        )
    if name == "dedup":
        lines += ["", *dedup_notes(report)]
    return "\n".join(lines) + "\n"


def floor_of(row: dict[str, Any]) -> str:
    """The floor with its kind, bold where it was missed."""
    if "floor" not in row:
        return number(row.get("at_least"))
    if row["floor"] is None:
        return "-"
    most = "at most " if row.get("less") and row["floor_of"] == "ours" else ""
    text = f"{most}{number(row['floor'])}{' times' if row['floor_of'] == 'ratio' else ''}"
    return f"**{text}, missed**" if row["missed"] else text


def dedup_notes(report: dict[str, Any]) -> list[str]:
    """Recall by band of similarity, and growth, as sentences."""
    lines = []
    for row in report["rows"]:
        if row.get("recall"):
            bands = [f"{band}: {n} of {total}" for band, (n, total) in row["recall"].items()]
            lines.append(f"Recall of {row['work']} by Jaccard similarity: {'; '.join(bands)}.")
    for row in report.get("growth", []):
        lines.append(
            f"- {row['work']}, {row['megabytes']} MB: {row['seconds']} CPU-s, {row['peak_mb']} MB"
        )
    return lines


if __name__ == "__main__":
    main()
