from __future__ import annotations

import pytest

from ci import forge


def test_an_error_is_marked_where_a_runner_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for actions, said in (("true", "::error::no"), ("", "ci: no")):
        monkeypatch.setenv("GITHUB_ACTIONS", actions)
        assert forge.marked("no") == said
