"""Modifiers that drop lines. A document that loses all of them goes, with the reason `emptied`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Modifier, each
from pipelines.schema import STRING, TEXT


class LineModifier(Modifier):
    """Keeps the lines for which `keeps` says so."""

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def keeps(self, line: str) -> bool:
        """Whether a line (between newlines, not stripped) stays."""
        raise NotImplementedError

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        def rewrite(text: str) -> str | None:
            kept = "\n".join(line for line in text.split("\n") if self.keeps(line))
            return kept if kept.strip() else None

        return {TEXT: each(batch.text, rewrite, type=STRING)}


class LineWords(LineModifier, name="line_words"):
    """Drop lines with fewer words than this; empty lines stay. (Penedo et al. 2023, G.2)"""

    min_words: int = Field(2, ge=1, description="fewest words a kept line has")
    reference: ClassVar[str | None] = "line_length_modifier"

    def keeps(self, line: str) -> bool:
        return not line or len(line.split()) >= self.min_words


class UppercaseLines(LineModifier, name="uppercase_lines"):
    """Drop lines that are mostly upper case; empty lines stay. (Penedo et al. 2023, G.2)"""

    max_fraction: float = Field(0.5, ge=0, le=1, description="upper-case characters, at most")
    reference: ClassVar[str | None] = "uppercase_ratio_line_modifier"

    def keeps(self, line: str) -> bool:
        return not line or sum(map(str.isupper, line)) <= self.max_fraction * len(line)


class PolicyLines(LineModifier, name="policy_lines"):
    """Drop lines that name a cookie or privacy policy, or JavaScript. (Raffel et al. 2020, 2.2)"""

    phrases: tuple[str, ...] = Field(
        (
            "javascript",
            "terms of use",
            "privacy policy",
            "cookie policy",
            "uses cookies",
            "use of cookies",
            "use cookies",
        ),
        min_length=1,
        description="phrases that make a line go, in any case",
    )
    reference: ClassVar[str | None] = "substring_line_modifier"

    def keeps(self, line: str) -> bool:
        lower = line.lower()
        return not any(phrase in lower for phrase in self.phrases)
