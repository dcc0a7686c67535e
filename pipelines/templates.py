"""Templates of HTML and SVG: one environment for each package, everything in it escaped."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates(package: str, *, strict: bool = True) -> Environment:
    """The templates in the folder `templates` of a package; an unknown name in one is an error.

    Unless it is not `strict`: then an unknown name is empty, for pages whose parts are optional.

    Numbers are written with the filter `fixed`: `{{ x | fixed(1) }}` is x with one decimal.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        auto_reload=False,  # it would ask the disk for each page whether its templates changed
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined if strict else Undefined,
    )
    environment.filters["fixed"] = _fixed
    environment.filters["grouped"] = _grouped
    return environment


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _grouped(value: float) -> str:
    return f"{value:,}"
