"""Extraction of text from HTML as a step, by any of several extractors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Counted, Modifier
from pipelines.schema import STRING, TEXT

Extractor = Literal["resiliparse_main", "resiliparse_all", "trafilatura", "selectolax"]
PACKAGES = {"trafilatura": "trafilatura", "selectolax": "selectolax"}
INVISIBLE = ("script", "style", "noscript", "template", "head")


class ExtractText(Modifier, name="extract_text"):
    """Replace the HTML of a page by its text, as an extractor reads it.

    The pages are those that `dclm extract --extractor html` keeps as they are; what the step takes
    is in the CPU seconds of the run, and `pipelines price` says what that costs. A page that the
    extractor cannot read, or in which it sees no text, is rejected. An extractor of your own
    is a function on pages in a Python file beside the pipeline.
    """

    extractor: Extractor = Field(
        "resiliparse_main",
        description="main content or all visible text by resiliparse; trafilatura's main content; "
        "all visible text by selectolax (optional packages)",
    )
    column: str = Field(TEXT, min_length=1, description="the column that holds the HTML")
    reasons: ClassVar[tuple[str, ...]] = ("no_text",)
    _extract: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def load(self, assets: AssetFolder) -> None:
        self._extract = extractor_of(self.extractor)

    def modify(self, batch: Batch) -> Counted:
        html = batch.column(self.column).cast(STRING)
        texts = [None if page is None else self._text(page) for page in html.to_pylist()]
        values = pa.array(texts, STRING)
        counts = {
            "html_bytes": int(pc.sum(pc.binary_length(html)).as_py() or 0),
            "text_bytes": int(pc.sum(pc.binary_length(values)).as_py() or 0),
        }
        return Counted({TEXT: values}, counts)

    def _text(self, page: str) -> str | None:
        text = self._extract(page)
        return text if text and not text.isspace() else None


def extractor_of(name: Extractor) -> Callable[[str], str | None]:
    """The function from HTML to text. ValueError for a package that is not installed."""
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"extractor {name!r} needs the package {package}, which is not installed; "
            f"pip install {package}, or use 'resiliparse_main'"
        )
    if name == "trafilatura":
        from trafilatura import extract

        return lambda page: extract(page)
    if name == "selectolax":
        return _by_selectolax
    return lambda page: _by_resiliparse(page, main=name == "resiliparse_main")


def _by_resiliparse(page: str, *, main: bool) -> str | None:
    from resiliparse.extract.html2text import extract_plain_text

    try:
        return str(extract_plain_text(page, main_content=main))
    except Exception as error:
        # resiliparse's HTMLParserException has no public home to import it from.
        if type(error).__name__ != "HTMLParserException":
            raise
        return None


def _by_selectolax(page: str) -> str | None:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(page)
    tree.strip_tags(list(INVISIBLE))
    root = tree.body or tree.root
    if root is None:
        return None
    lines = (line.strip() for line in root.text(separator="\n", strip=False).split("\n"))
    return "\n".join(line for line in lines if line)
