from __future__ import annotations

import pytest

from pipelines.errors import TrainingError
from pipelines.extras import needs_extra


def test_a_missing_package_is_named_with_its_extra() -> None:
    expected = r"the package torch is not installed; models need the extra `image`: pip install"
    with (
        pytest.raises(TrainingError, match=expected),
        needs_extra("image", packages=("torch",), what="models"),
    ):
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")


def test_a_missing_module_of_others_stays_what_it_is() -> None:
    with (
        pytest.raises(ModuleNotFoundError),
        needs_extra("image", packages=("torch",), what="models"),
    ):
        raise ModuleNotFoundError("No module named 'mine'", name="mine")
