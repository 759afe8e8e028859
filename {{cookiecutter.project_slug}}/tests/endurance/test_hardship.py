"""Disks that are full, memory that is short, folders and databases that refuse, sudden deaths."""

from __future__ import annotations

import json
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.tracking.registry import CHAMPION

from tests.conftest import ROOT
from tests.endurance.conftest import FIRST, LAST, Home, assert_same
from tests.killing import KILLS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are those of Linux")

NEXT = FIRST + timedelta(days=7)
STEPS = ("ingest", "prepare", "features", "predict", "monitor", "retrain")
WEEKS = [
    f"run --as-of {FIRST.isoformat()}",
    *(f"{verb} --as-of {NEXT.isoformat()}" for verb in STEPS),
]
# By what is wanting, the verbs that must do without; a locked database is waited for.
TRIED = {
    "disk": WEEKS,
    "permission": WEEKS,
    "memory": [WEEKS[0], WEEKS[-1]],
    "database": [WEEKS[-1]],
}
LONG = ("memory", "database")


def suffer(
    home: Home, hardship: str, verbs: list[str], tried: list[str]
) -> list[tuple[str, int, str]]:
    """Run verbs, some of which must do without something; how each process ended."""
    script = str(ROOT / "tests" / "endurance" / "hardship.py")
    process = home.start(script, hardship, json.dumps(verbs), json.dumps(tried))
    said, _ = process.communicate()
    assert process.returncode == 0, said
    ends: list[tuple[str, int, str]] = json.loads(said.splitlines()[-1])
    return ends


@pytest.fixture(scope="module")
def undisturbed(fresh: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two weeks in which nothing was wanting."""
    home = fresh.copy(tmp_path_factory.mktemp("undisturbed") / "my project")
    assert [end for end in suffer(home, "nothing", WEEKS, []) if end[1] != 0] == []
    return home


@pytest.mark.parametrize(
    "hardship",
    [pytest.param(it, marks=pytest.mark.long if it in LONG else ()) for it in TRIED],
)
def test_what_is_wanting_is_said_in_a_line_and_nothing_is_half_there(
    undisturbed: Home, fresh: Home, tmp_path: Path, hardship: str
) -> None:
    # given a project of its own
    home = fresh.copy(tmp_path / "my project")
    # when verbs must do without, and are run again
    ends = suffer(home, hardship, WEEKS, TRIED[hardship])
    # then it has said so
    failed = [end for end in ends if end[1] != 0]
    assert {verb for verb, _, _ in failed} == set(TRIED[hardship])
    for verb, code, said in failed:
        if hardship == "memory":  # what an interpreter says that has none is not ours
            continue
        assert code == 1, (verb, said)
        assert "Traceback" not in said, (verb, said)
        assert said.count("✗") == said.count("→") == 1, (verb, said)
    # then all is as if nothing had been wanting
    assert_same(home.tables(), undisturbed.tables())
    assert home.versions() == undisturbed.versions()


def test_killed_at_random_moments_it_ends_where_an_undisturbed_one_does(
    undisturbed: Home, fresh: Home, tmp_path: Path
) -> None:
    home = fresh.copy(tmp_path / "my project")
    moments = f"--from {FIRST.isoformat()} --to {LAST.isoformat()}"
    walk = f"replay {moments} --every 7d --schedule 14d"
    # when verbs of two weeks, and then a walk through the weeks after, are killed and run again
    verbs = [*WEEKS, walk]
    ends = suffer(home, f"life:1:{KILLS}", verbs, verbs)
    # then each has ended well
    assert [end for end in ends if end[1] not in (0, -signal.SIGKILL)] == []
    assert -signal.SIGKILL in {code for _, code, _ in ends}
    whole = undisturbed.copy(tmp_path / "whole")
    assert [end for end in suffer(whole, "nothing", [walk], []) if end[1] != 0] == []
    # then all is as if nobody had been killed
    assert_same(home.tables(), whole.tables())
    assert home.versions() == whole.versions()
    assert home.context.registry.aliased(CHAMPION) is not None
