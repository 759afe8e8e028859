"""Rendering for the tests: always of the work tree's own sources, never over the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import render
from pytest_cookies.plugin import Cookies
from stage import Stage, open_stage
from support import NASTY, PROBLEM_TYPES, Bake, checked


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template without what git ignores, in a folder with a space in its name."""
    return render.snapshot(tmp_path_factory.mktemp("the sources") / "template")


@pytest.fixture(autouse=True, scope="session")
def _own_git_identity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the identity and settings of whoever runs the tests out of them."""
    settings = tmp_path_factory.mktemp("git") / "config"
    settings.write_text("[user]\n  name = Tester\n  email = tester@example.org\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", str(settings))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_AUTHOR_NAME"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def bake(cookies: Cookies, template: Path) -> Bake:
    """Render with the given answers, defaults for the others."""
    return checked(cookies, template)


@pytest.fixture(scope="session", params=[*PROBLEM_TYPES, "nasty"])
def project(request: pytest.FixtureRequest, cookies_session: Cookies, template: Path) -> Path:
    """A rendered project: of each problem type, and with awkward texts as answers."""
    answers = NASTY | {"project_slug": "x-" * 19 + "yz"}
    if request.param != "nasty":
        answers = {"problem_type": request.param}
    result = checked(cookies_session, template)(**answers)
    assert result.exception is None
    return Path(result.project_path)


@pytest.fixture(scope="module")
def stage(
    cookies_session: Cookies, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    """A repository on a stage of its own."""
    project = checked(cookies_session, template)().project_path
    return open_stage(tmp_path_factory.mktemp("stage"), project)
