"""Words of all rows together, against the plain split."""

from __future__ import annotations

import re

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import kernels
from pipelines.schema import STRING

LETTERS = st.sampled_from("ab \n\t.é漢\u00a0\x1f")
TEXTS = st.lists(st.text(alphabet=LETTERS, max_size=400), max_size=8)


def plain(text: str) -> int:
    return len([word for word in re.split("[\x00- ]", text) if word])


@settings(deadline=None)  # the first call compiles
@given(texts=TEXTS, skip=st.integers(0, 3))
def test_words_of_slices_are_those_of_a_plain_split(texts: list[str], skip: int) -> None:
    array = pa.array(texts, STRING).slice(skip)
    assert kernels.counting.words(array) == sum(plain(text) for text in texts[skip:])
