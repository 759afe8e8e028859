"""The problem on its own data, with the project's own configuration."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest

from {{cookiecutter.package_name}} import flows
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.problem import PROBLEM

from tests.conftest import ROOT, copy_project, when_filled

CONF = ROOT / "conf"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's configuration, where the test stands; its path has a space."""
    folder = tmp_path / "my project"
    shutil.copytree(CONF, folder / "conf")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def as_of() -> datetime:
    """Late enough for its windows, or when the data end."""
    return when_filled(PROBLEM)


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory, as_of: datetime) -> Context:
    """A project in which the whole loop has run once."""
    folder = copy_project(tmp_path_factory.mktemp("problem") / "my project", CONF)
    context = Context(load_settings("test", folder), PROBLEM)
    flows.run(context, as_of, "test")
    return context
