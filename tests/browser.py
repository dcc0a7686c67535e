"""Chromium and axe-core for the tests that are marked `browser`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

AXE = "axe-core@4.14.1"
SWITCHES = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")


class Unavailable(RuntimeError):
    """It cannot be had here; the message says why."""


def chromium() -> str:
    """Debian's Chromium, installed with apt when this is root."""
    names = ("chromium", "chromium-browser", "google-chrome")
    actual = next((path for name in names if (path := shutil.which(name))), None)
    if actual is None and os.geteuid() == 0 and shutil.which("apt-get"):
        run = ["apt-get", "install", "-y", "-qq", "chromium"]
        subprocess.run(run, capture_output=True, check=False, timeout=600)
        actual = shutil.which("chromium")
    if actual is None:
        raise Unavailable("no Chromium: apt-get install chromium")
    return actual


def axe(folder: Path) -> str:
    """The text of axe-core, installed with npm into `folder` once."""
    path = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("no npm, so no axe-core")
        folder.mkdir(parents=True, exist_ok=True)
        run = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), AXE]
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=300)
        if not path.is_file():
            raise Unavailable(f"npm could not install {AXE}: {done.stderr.strip()[-200:]}")
    return path.read_text(encoding="utf-8")
