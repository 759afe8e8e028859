from __future__ import annotations

from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.tracking.registry import as_address


@pytest.mark.parametrize("place", ["s3://bucket/runs", "dbfs:/runs", "mlflow-artifacts:/runs"])
def test_an_address_stays_as_it_is(place: str) -> None:
    assert as_address(place) == place


def test_a_folder_becomes_an_address(tmp_path: Path) -> None:
    assert as_address(str(tmp_path / "my runs")) == f"{tmp_path.as_uri()}/my%20runs"
