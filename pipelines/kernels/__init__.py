"""Compiled loops over Arrow buffers. A kernel module (and numba) is loaded when first used:

from pipelines import kernels
kernels.words.uax29(array)
"""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = (
    "bloom",
    "buffers",
    "candidates",
    "components",
    "counting",
    "cuts",
    "domains",
    "fasttext",
    "grouping",
    "item_windows",
    "language_profiles",
    "lines",
    "minhash",
    "ngrams",
    "phrases",
    "projected",
    "punkt",
    "repetition",
    "resample",
    "sentences",
    "spans",
    "stats",
    "tars",
    "uids",
    "winnow",
    "words",
)


def __getattr__(name: str) -> ModuleType:
    if name in MODULES:
        return importlib.import_module(f"pipelines.kernels.{name}")
    raise AttributeError(f"there is no kernel module {name!r}; modules are {', '.join(MODULES)}")
