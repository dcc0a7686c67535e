"""Emoji as an image-text pool: concepts, their names in many languages, their images in styles.

The packages of `tiny_pool.yaml` give drawings (SVG) in three styles and, for every emoji, a label
and search words in 28 languages. From them come pairs of an image and a caption. Most are made
worse, as pairs on the web are: another concept's caption, another language, an image of four by
four pixels, a banner, a copy. What becomes of a pair is a hash of its name: the same packages give
the same pairs. `docs/tiny-pool.md` has the shares.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from PIL import Image
from pydantic import Field, ValidationError

from pipelines.assets.packages import Package, members
from pipelines.errors import PoolError
from pipelines.records import Frozen
from pipelines.yaml_text import load_plain

DEFAULT = Path(__file__).with_name("tiny_pool.yaml")
RENDERED_PIXELS = 224  # what an image is before it is made smaller
STORED_PIXELS = 64  # longest side in the tars: `image_size` of the tiny pool
QUALITY = 90  # of JPEG
COMPONENTS = 2  # emojibase's group of hair colours and the like: no images of their own
LOCALES = ("de", "es", "fr", "it", "ja", "ko", "pl", "pt", "ru", "zh")
COPIES = 2
GOOD, WRONG, FOREIGN, TINY = 0.25, 0.65, 0.90, 0.98  # upper borders; the rest are banners
TWINS = 0.04  # share of pairs that come a second time under another uid
HELDOUT = 0.5  # share of the concepts that are evaluated on, in the style that is held out
TONES = (1, 5)  # the lightest and the darkest skin: near-duplicates as they come

Fate = Literal["good", "wrong", "foreign", "tiny", "banner"]


class Source(Package):
    """One package, and what of the pool it gives."""

    role: Literal["pictures", "words", "digits"] = Field(
        description="drawings, their names, or images for evaluation only"
    )
    heldout: bool = Field(False, description="pictures: the style that is evaluated on")


class Archive(Frozen):
    """A source and the file that was fetched for it."""

    source: Source
    path: Path


def load_sources(path: Path = DEFAULT) -> list[Source]:
    """Read the list of sources. ValueError names the file and the source."""
    rows = load_plain(path.read_text(encoding="utf-8"))
    sources = []
    for number, row in enumerate(rows["sources"]):
        try:
            sources.append(Source.model_validate(row))
        except ValidationError as error:
            raise ValueError(f"{path}: source {row.get('name', number)!r}: {error}") from error
    return sources


@dataclass(frozen=True)
class Words:
    """What a concept is called in one language."""

    label: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Concept:
    """An emoji: its code points, its group, its names; `base` is the concept it is a variant of."""

    code: str
    base: str
    group: str
    words: dict[str, Words]


@dataclass(frozen=True)
class Style:
    """Drawings by code points: the body of an SVG and the box it is drawn in."""

    name: str
    heldout: bool
    names: dict[str, str]
    drawings: dict[str, tuple[str, float, float]]


@dataclass(frozen=True)
class Pair:
    """A row of the pool: which drawing, what became of it, what it is called."""

    uid: str
    style: str
    code: str
    url: str
    caption: str
    fate: Fate


# ---- what the packages hold


def read_concepts(item: Archive) -> list[Concept]:
    """The concepts of emojibase, with two skins of each that has some, in order of code points."""
    files = _files(item)
    groups = orjson.loads(files["meta/groups.json"])["groups"]
    by_locale = {
        locale: {row["hexcode"]: row for row in _with_skins(orjson.loads(files[path]))}
        for locale in ("en", *LOCALES)
        if (path := f"{locale}/data.json") in files
    }
    if "en" not in by_locale:
        raise PoolError(f"source {item.source.name!r} has no English names (en/data.json)")
    concepts = []
    for code, row in by_locale["en"].items():
        group = row.get("group")
        if group is None or group == COMPONENTS:
            continue
        words = {
            locale: Words(here["label"], tuple(here.get("tags", row.get("tags", ()))))
            for locale, rows in by_locale.items()
            if (here := rows.get(code)) is not None
        }
        concepts.append(Concept(_plain(code), _plain(row["base"]), groups[str(group)], words))
    return sorted(concepts, key=lambda concept: concept.code)


def _with_skins(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row | {"base": row["hexcode"]}
        for skin in row.get("skins", ()):
            if skin.get("tone") in TONES:
                yield skin | {"base": row["hexcode"], "tags": row.get("tags", ())}


def _plain(code: str) -> str:
    """Code points without the variation selector, which packages set or leave out."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def read_style(item: Archive) -> Style:
    """The drawings of an iconify set."""
    files = _files(item)
    icons = orjson.loads(files["icons.json"])
    width, height = icons.get("width", 16), icons.get("height", icons.get("width", 16))
    names = {_plain(code): name for code, name in orjson.loads(files["chars.json"]).items()}
    drawings = {
        name: (icon["body"], icon.get("width", width), icon.get("height", height))
        for name, icon in icons["icons"].items()
    }
    return Style(item.source.name, item.source.heldout, names, drawings)


def read_digits(item: Archive, *, per_class: int) -> list[tuple[int, bytes]]:
    """Handwritten digits (label, PNG), the first `per_class` of each, label after label."""
    digits = []
    for name, data in sorted(_files(item).items()):
        flat = orjson.loads(data)["data"]
        for number in range(per_class):
            pixels = flat[784 * number : 784 * (number + 1)]
            grey = bytes(min(255, round(255 * value)) for value in pixels)
            image = Image.frombytes("L", (28, 28), grey)
            digits.append((int(name.removesuffix(".json")), encode(image, "PNG")))
    return digits


def _files(item: Archive) -> dict[str, bytes]:
    return dict(members(item.path, source=item.source))


# ---- pairs


def chance(*words: object) -> float:
    """A number in [0, 1) that only these words decide."""
    data = "|".join(map(str, words)).encode()
    return float(struct.unpack("<Q", hashlib.sha256(data).digest()[:8])[0] / 2**64)


def is_heldout(concept: Concept) -> bool:
    """Whether a concept is evaluated on, in the style that is held out."""
    return chance(concept.base, "heldout") < HELDOUT


def pairs(concepts: Sequence[Concept], styles: Sequence[Style]) -> list[Pair]:
    """The rows of the pool, in the order of their uids."""
    all_pairs = []
    for style in styles:
        drawn = [concept for concept in concepts if concept.code in style.names]
        for concept in drawn:
            if style.heldout and is_heldout(concept):
                continue
            copies = COPIES if concept.code == concept.base else 1
            for copy in range(copies):
                all_pairs += _pair(concept, style, copy, drawn)
    return sorted(all_pairs, key=lambda pair: pair.uid)


def _pair(concept: Concept, style: Style, copy: int, others: Sequence[Concept]) -> list[Pair]:
    name = (concept.code, style.name, copy)
    draw = chance(*name, "fate")
    fate: Fate = "banner"
    for border, border_fate in (
        (GOOD, "good"),
        (WRONG, "wrong"),
        (FOREIGN, "foreign"),
        (TINY, "tiny"),
    ):
        if draw < border:
            fate = border_fate  # type: ignore[assignment]
            break
    caption = english(concept, chance(*name, "form"))
    if fate == "wrong":
        other = others[int(chance(*name, "other") * len(others))]
        caption = english(other, chance(*name, "form"))
    elif fate == "foreign":
        locales = [locale for locale in LOCALES if locale in concept.words]
        if locales:
            caption = foreign(concept.words[locales[int(chance(*name, "locale") * len(locales))]])
    icon = style.names[concept.code]
    url = f"https://api.iconify.design/{style.name}/{icon}.svg"
    twins = ("", "twin") if chance(*name, "twin") < TWINS else ("",)
    return [
        Pair(
            uid=hashlib.sha256("|".join((*map(str, name), twin)).encode()).hexdigest()[:32],
            style=style.name,
            code=concept.code,
            url=url,
            caption=caption,
            fate=fate,
        )
        for twin in twins
    ]


def english(concept: Concept, form: float) -> str:
    """One of three ways to say what an image shows, with two of the words it is searched by."""
    words = concept.words["en"]
    label = words.label
    tags = [tag for tag in words.tags if tag != label] or ["emoji"]
    tag_number = int(form * 1000) % len(tags)
    first = tags[tag_number]
    rest = [*tags[:tag_number], *tags[tag_number + 1 :]] or ["symbol"]
    second = rest[int(form * 1_000_000) % len(rest)]
    ways = (
        f"a picture of {label}, with {first} and {second}",
        f"{label}: this icon is about {first}",
        f"the {label} emoji ({first}, {second})",
    )
    return ways[int(form * len(ways))]


def foreign(words: Words) -> str:
    """Label and search words in another language."""
    return ", ".join((words.label, *words.tags[:3]))


def heldout_caption(concept: Concept) -> str:
    """How a held-out image is called: in the pool's first way, with its first search words."""
    words = concept.words["en"]
    tags = [tag for tag in words.tags if tag != words.label]
    if not tags:
        return f"a picture of {words.label}"
    return f"a picture of {words.label}, with {' and '.join(tags[:2])}"


# ---- images


def render(style: Style, code: str) -> Image.Image:
    """A drawing on white, 224 pixels wide. PoolError when the renderer is missing."""
    try:
        import resvg_py
    except ImportError:
        raise PoolError(
            "the tiny pool draws its images with the package resvg-py: install the extra "
            "`image`, as in pip install -e '.[image]'"
        ) from None
    body, width, height = style.drawings[style.names[code]]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=RENDERED_PIXELS, background="#ffffff", skip_system_fonts=True
    )
    with Image.open(io.BytesIO(bytes(png))) as image:
        return image.convert("RGB")


def worsen(image: Image.Image, fate: Fate) -> Image.Image:
    """What a page made of the image: four by four pixels, or a banner five times as long."""
    if fate == "tiny":
        return image.resize((4, 4), Image.Resampling.BOX)
    if fate == "banner":
        wide = Image.new("RGB", (image.width * 5, image.height), "white")
        wide.paste(image, (image.width * 2, 0))
        return wide
    return image


def store(image: Image.Image) -> Image.Image:
    """The image with its longest side at most 64 pixels, proportions kept."""
    longest = max(image.size)
    if longest <= STORED_PIXELS:
        return image
    size = tuple(max(1, round(side * STORED_PIXELS / longest)) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)  # type: ignore[arg-type]


def encode(image: Image.Image, format: str = "JPEG") -> bytes:
    data = io.BytesIO()
    options = {"quality": QUALITY} if format == "JPEG" else {}
    image.save(data, format, **options)
    return data.getvalue()
