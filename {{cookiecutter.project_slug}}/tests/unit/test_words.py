from __future__ import annotations

import pytest

from {{cookiecutter.package_name}}.core.words import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (25_891, "25,891 rows")]
)
def test_one_thing_is_not_called_many(number: int, said: str) -> None:
    assert counted(number, "row") == said
