"""The YAML file of a mixture: sources, how often each is repeated, and how that is decided.

    sources:
      - {dataset: runs/web, name: web, repeat: 1.5}
      - {dataset: runs/code, name: code, share: 0.2}     # of the tokens, when total_tokens is given
      - {dataset: runs/web, name: topic, by: topic, shares: {news: 0.3, sport: 0.1}}
      - {dataset: runs/web, name: quality, by: quality_score, edges: [0.2, 0.6], repeats: [0, 1, 3]}
    total_tokens: 8_000_000_000
    temperature: 2          # decides the shares of sources with neither repeat nor share
    seed: 0

A source with `by` is one source for each value of a column (or interval between `edges`), named
`topic/news`. `shares` at the top level, next to `sources`, gives all shares by those names.
"""

from __future__ import annotations

import math
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, field_validator

from pipelines.formats.mix_parts import NONE, By
from pipelines.records import Frozen
from pipelines.yaml_text import load_yaml

BYTES_PER_TOKEN = 4.2  # of English text with gpt-neox-20b, for datasets without a token count


class Source(Frozen):
    """One dataset: `repeat` times, or a `share` of the tokens; with `by` one source for each part.

    `repeats` and `shares` are by part; a list of repeats has one for each interval, in order.
    """

    dataset: str = Field(description="folder or prefix of a finished dataset")
    name: str = Field(min_length=1, description="value of `source` in its rows")
    repeat: float | None = Field(None, gt=0)
    share: float | None = Field(None, gt=0, le=1)
    by: str | None = Field(None, description="column whose values become sources")
    edges: tuple[float, ...] = Field((), description="for numbers: edges between intervals")
    repeats: dict[str, float] | tuple[float, ...] | None = None
    shares: dict[str, float] | None = None

    @property
    def parts(self) -> By | None:
        """What distinguishes its parts."""
        return None if self.by is None else By(column=self.by, edges=self.edges)

    def repeats_by_name(self) -> dict[str, float]:
        """The repeats of its parts; rows without a value are left out unless `none` is named."""
        assert self.repeats is not None
        if isinstance(self.repeats, dict):
            return {NONE: 0.0, **self.repeats}
        assert self.parts is not None
        return {NONE: 0.0, **dict(zip(self.parts.labels() or [], self.repeats, strict=True))}

    def ways(self) -> list[str]:
        """Which of its fields determine how often it is repeated."""
        names = ("repeat", "share", "repeats", "shares")
        return [name for name in names if getattr(self, name) is not None]


class Mixture(Frozen):
    """The contents of a mixture's YAML file."""

    sources: tuple[Source, ...] = Field(min_length=1)
    total_tokens: int | None = Field(None, gt=0)
    bytes_per_token: float = Field(BYTES_PER_TOKEN, gt=0)
    max_repeat: float = Field(4.0, gt=0, description="more repeats of a source are refused")
    temperature: float | None = Field(
        None, gt=0, description="shares in proportion to tokens^(1/temperature), for the rest"
    )
    shares: dict[str, float] | None = Field(None, description="of all sources and parts, by name")
    seed: int = Field(0, ge=0)

    @field_validator("total_tokens", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        """Accept 8e9, which YAML reads as a string."""
        try:
            return int(float(value)) if isinstance(value, str) else value
        except ValueError:
            return value


def load_mixture(path: Path) -> Mixture:
    """A mixture from YAML. ValueError says which key is wrong."""
    try:
        mixture = Mixture.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a mixture: {error}") from None
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        ]
        raise ValueError(f"{path} is not a mixture: {'; '.join(faults)}") from None
    if mixture.shares is not None and mixture.temperature is not None:
        raise ValueError(f"{path}: give shares or temperature, not both")
    for source in mixture.sources:
        _check_source(path, mixture, source)
    _check_sum(path, mixture)
    names = [source.name for source in mixture.sources]
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: two sources have one name: {', '.join(sorted(names))}")
    return mixture


def _check_source(path: Path, mixture: Mixture, source: Source) -> None:
    where = f"{path}: source {source.name!r}"
    ways = source.ways()
    others = mixture.temperature is not None or mixture.shares is not None
    if len(ways) > 1 or (not ways and not others):
        raise ValueError(f"{where}: give repeat or share, not both")
    if ways and mixture.shares is not None:
        raise ValueError(f"{where}: has {ways[0]}, and shares give all shares: leave one out")
    needs_total = not ways or ways[0] in ("share", "shares")
    if needs_total and mixture.total_tokens is None:
        raise ValueError(f"{where} has a share: total_tokens is missing")
    if source.by is None:
        extra = [n for n in ("edges", "repeats", "shares") if getattr(source, n)]
        if extra:
            raise ValueError(f"{where}: {extra[0]} are those of parts: give by, a column")
        return
    if list(source.edges) != sorted(set(source.edges)):
        raise ValueError(f"{where}: edges {source.edges} are not in ascending order")
    if isinstance(source.repeats, tuple) and len(source.repeats) != len(source.edges) + 1:
        raise ValueError(
            f"{where}: {len(source.repeats)} repeats for {len(source.edges)} edges; expected "
            f"{len(source.edges) + 1}, one for each interval"
        )
    values = [*(source.shares or {}).values()]
    values += source.repeats_by_name().values() if source.repeats is not None else []
    if any(value < 0 for value in values):
        raise ValueError(f"{where}: a share or repeat is below 0")


def _check_sum(path: Path, mixture: Mixture) -> None:
    """ValueError unless shares add up to 1, or to less where other sources fill the rest."""
    if mixture.shares is not None:
        shares, whole = [*mixture.shares.values()], True
        if any(share < 0 for share in shares):
            raise ValueError(f"{path}: a share is below 0")
    else:
        of_sources = [
            [source.share] if source.share is not None else [*(source.shares or {}).values()]
            for source in mixture.sources
        ]
        shares = [share for own in of_sources for share in own]
        whole = all(own for own in of_sources)
    total = math.fsum(shares)
    if shares and (total > 1 + 1e-6 or (whole and total < 1 - 1e-6)):
        raise ValueError(f"{path}: the shares add up to {total:g}, expected 1")
