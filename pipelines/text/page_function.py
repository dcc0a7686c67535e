"""A participant's plain function on pages as an operator, as DCLM's own mappers are written.

    def few_commas(page, min_commas=8):
        return [page] if page["text"].count(",") >= min_commas else []

The function gets a page as a dictionary (columns and the fields of `extra`) and its keyword
arguments, and returns a list of pages: none drops it, several split it. A function whose first
parameter is not `page` is a factory: it gets the arguments once and returns such a function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import ConfigDict, PrivateAttr

from pipelines.batch import Batch
from pipelines.operators import AssetFolder, Splitter
from pipelines.schema import EXTRA, ROW, STRING, TEXT
from pipelines.text import fields

Page = dict[str, Any]


class PageFunction(Splitter):
    """Calls a participant's function on each page. Keyword arguments are its parameters."""

    model_config = ConfigDict(frozen=True, extra="allow")
    function: ClassVar[Callable[..., Any]]
    takes_pages: ClassVar[bool] = True
    _mapper: Any = PrivateAttr(None)

    def reads(self) -> tuple[str, ...]:
        return ()

    def load(self, assets: AssetFolder) -> None:
        function = type(self).function
        arguments = dict(self.model_extra or {})
        first = next(iter(inspect.signature(function).parameters), "")
        if first != "page":
            function, arguments = function(**arguments), {}
        self._mapper = lambda page: function(page, **arguments)

    def split(self, batch: Batch) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        parents: list[int] = []
        made: list[Page] = []
        for position, page in enumerate(fields.pages(batch)):
            results = self._mapper(page)
            if not isinstance(results, list) or not all(isinstance(r, dict) for r in results):
                raise TypeError(f"{self.name} returned {results!r:.80}, expected a list of pages")
            made += results
            parents += [position] * len(results)
        return self._table(batch, made), np.array(parents, dtype=np.int64)

    def _table(self, batch: Batch, pages: list[Page]) -> pa.Table:
        """Fields back in the columns they came from; all others are entries of `extra`.

        So is what is no string, in a column of strings: an id that is a number, as it is read.
        """
        schema = [f for f in batch.table.schema if f.name not in (ROW, EXTRA)]
        strings = {f.name for f in schema if pa.types.is_large_string(f.type)}
        names = {f.name for f in schema}
        rest: list[Page] = []
        for page in pages:
            if not isinstance(page.get(TEXT), str | None):
                kind = type(page[TEXT]).__name__
                raise TypeError(f"{self.name} returned a page whose text is {kind}, not a string")
            others = {k for k, v in page.items() if k in strings and not isinstance(v, str | None)}
            rest.append({k: v for k, v in page.items() if k not in names or k in others})
        columns = {
            f.name: pa.array(
                [
                    None if f.name in other else page.get(f.name)
                    for page, other in zip(pages, rest, strict=True)
                ],
                f.type,
            )
            for f in schema
        }
        extra = [orjson.dumps(entry).decode() if entry else None for entry in rest]
        return pa.table({**columns, EXTRA: pa.array(extra, type=STRING)})


def operator_of(function: FunctionType, name: str) -> type[PageFunction]:
    """The operator that calls this function."""
    doc = inspect.getdoc(function) or f"Calls the function {function.__name__} on each page."
    members = {
        "__doc__": doc,
        "__module__": function.__module__,
        "function": staticmethod(function),
        "name": name,
    }
    return type(name, (PageFunction,), members)
