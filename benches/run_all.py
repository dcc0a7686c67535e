"""Runs every bench in turn, each in its own process; those that need a GPU say so and are skipped.

python benches/run_all.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    expected = sys.argv[1:] or sorted(path.stem for path in HERE.glob("bench_*.py"))
    failed = []
    for name in expected:
        stem = name if name.startswith("bench_") else f"bench_{name}"
        print(f"== {stem}", flush=True)
        if subprocess.run([sys.executable, str(HERE / f"{stem}.py")]).returncode:
            failed.append(stem)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
