"""A missing package of an optional extra is named by its extra, not by its module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.errors import TrainingError


@contextmanager
def needs_extra(extra: str, *, packages: Sequence[str], what: str) -> Iterator[None]:
    """TrainingError, with the command that installs it, for a missing package of the extra.

    `packages` are the modules that come with the extra; `what` needs them, in the plural.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in packages:
            raise
        raise TrainingError(
            f"the package {package} is not installed; {what} need the extra `{extra}`: "
            f"pip install -e '.[{extra}]'"
        ) from None
