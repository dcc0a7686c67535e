"""The packages behind the tiny pool: what they are, and what in them is for what.

`tiny_pool.yaml` lists the sources; `pipelines.assets.packages` fetches and reads them.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from pipelines.assets.packages import Package
from pipelines.yaml_text import load_plain

DEFAULT = Path(__file__).with_name("tiny_pool.yaml")


class Source(Package):
    """One part of one package, and what it is for."""

    role: Literal["pool", "positives", "heldout", "lid"] = Field(
        description="web pages to curate, prose that trains the quality classifier, prose that "
        "models are evaluated on, or the language identification model"
    )
    kind: str = Field(description="what sort of text it is: prose, reference, spam, ...")
    content: Literal["html", "text", "mail", "file"] = Field(
        default="html",
        description="what its files are: pages, plain text, mails, or one binary file",
    )
    url: str = Field(
        default="",
        pattern=r"^(https://[^ ]+/)?$",
        description="public home of the text: root becomes this",
    )
    max_pages: int | None = Field(
        default=None,
        ge=1,
        description="keep this many pages, chosen by a hash of their URL; null: all",
    )
    max_characters: int = Field(
        default=4000,
        ge=200,
        description="heldout and positives: longest row, cut after a paragraph",
    )
    max_rows_per_page: int = Field(
        default=1,
        ge=1,
        description="heldout and positives: a long page gives several rows, up to this",
    )

    @model_validator(mode="after")
    def _has_url(self) -> "Source":
        if self.role != "lid" and not self.url:
            raise ValueError(f"source {self.name!r}: url is missing; every page needs one")
        return self


def load_sources(path: Path = DEFAULT) -> list[Source]:
    """Read the list of sources. Raises ValueError that names the file and the source."""
    rows = load_plain(path.read_text(encoding="utf-8"))
    if not isinstance(rows, dict) or not isinstance(rows.get("sources"), list):
        raise ValueError(f"{path}: expected a mapping with the list 'sources'")
    sources = []
    for index, row in enumerate(rows["sources"]):
        try:
            sources.append(Source.model_validate(row))
        except ValidationError as error:
            name = row.get("name", index) if isinstance(row, dict) else index
            raise ValueError(f"{path}: source {name!r}: {error}") from error
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: source names must be unique; given twice: {', '.join(twice)}")
    return sources
