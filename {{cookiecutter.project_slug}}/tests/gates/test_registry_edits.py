"""What somebody changed in the registry by hand is refused and said; the log is the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import pytest

from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    Registry,
)
from {{cookiecutter.package_name}}.tracking.signing import SIGNATURE
from {{cookiecutter.package_name}}.tracking.stages import history

Run = Callable[..., tuple[int, str, str]]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]

EDITS: dict[str, Mapping[str, str]] = {
    "production": {"stage": "Production"},
    "staging": {"stage": "Staging"},
    "archived": {"stage": "Archived"},
    "lower case": {"stage": "production"},
}
VERBS = ("deploy", "check", "request", "compare")


def edit(registry: Registry, number: str, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        registry.client.set_model_version_tag(registry.settings.model, number, name, value)


@pytest.fixture
def archived(arena: Context, add: Add, promote: Promote) -> str:
    """A version that failed its checks; version 1 is the champion."""
    promote(arena, add(arena, "old"))
    number = add(arena)
    transitions.move(arena, "archive", number, "me", "it failed")
    return number


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("tags", EDITS.values(), ids=EDITS)
def test_a_stage_set_by_hand_is_refused(
    verb: str, tags: Mapping[str, str], arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    # given a champion and a new version whose stage somebody set
    promote(arena, add(arena, "old"))
    number = add(arena)
    edit(arena.registry, number, tags)
    before = history(arena.lakehouse)
    # when it is asked to go on
    code, _, err = run(verb, "--env", "test", "--version", number)
    # then it is refused in a line, and nothing has changed
    assert (code, "Traceback" in err) == (1, False)
    assert f"by hand: Version {number} is said to be in {tags['stage']}" in " ".join(err.split())
    assert arena.registry.aliased(CHAMPION) == "1"
    assert history(arena.lakehouse).equals(before)


@pytest.mark.parametrize("verb", VERBS)
def test_a_failed_version_made_the_challenger_by_hand_is_refused(
    verb: str, archived: str, arena: Context, run: Run
) -> None:
    edit(arena.registry, archived, {"stage": "Staging"})
    arena.registry.point(CHALLENGER, archived)
    code, _, err = run(verb, "--env", "test", "--version", archived)
    assert (code, err.startswith("✗ The registry was changed by hand: @challenger")) == (1, True)
    assert arena.registry.aliased(CHAMPION) == "1"


@pytest.mark.parametrize("verb", ["deploy", "predict"])
def test_a_champion_made_by_hand_neither_deploys_nor_scores(
    verb: str, archived: str, arena: Context, run: Run, as_of: datetime
) -> None:
    arena.registry.point(CHAMPION, archived)
    asked = {"deploy": ("--version", archived), "predict": ("--as-of", f"{as_of:%Y-%m-%dT%H:%M}")}
    code, _, err = run(verb, "--env", "test", *asked[verb])
    assert (code, err.startswith("✗ The registry was changed by hand: @champion")) == (1, True)


def test_a_champion_that_was_tampered_with_does_not_score(
    arena: Context, add: Add, promote: Promote, run: Run, as_of: datetime
) -> None:
    promote(arena, add(arena))
    edit(arena.registry, "1", {"holdout_end": "2024-01-01T00:00:00+00:00"})
    code, _, err = run("predict", "--env", "test", "--as-of", f"{as_of:%Y-%m-%dT%H:%M}")
    assert (code, err.startswith("✗ Version 1 has other tags or files than were signed")) == (
        1,
        True,
    )


def test_a_challenger_whose_signature_is_gone_is_not_approved(
    arena: Context, add: Add, run: Run
) -> None:
    transitions.move(arena, "stage", add(arena), "me", "it is good")
    edit(arena.registry, "1", {SIGNATURE: "none"})
    code, _, err = run("request", "--env", "test", "--version", "1")
    assert (code, "was signed with another key" in " ".join(err.split())) == (1, True)
    assert arena.registry.aliased(CHAMPION) is None


def test_an_approval_looks_at_the_signature_again(
    configure: Callable[..., Context], add: Add, run: Run
) -> None:
    arena = configure(DEPLOYMENT__APPROVAL="person")
    transitions.move(arena, "stage", add(arena), "me", "it is good")
    transitions.request(arena, "1", "asker", "better")
    edit(arena.registry, "1", {"as_of": "2030-01-01T00:00:00+00:00"})
    code, _, err = run("approve", "--env", "test", "--who", "boss", "--why", "well done")
    assert (code, "other tags or files than were signed" in " ".join(err.split())) == (1, True)
    assert arena.registry.aliased(CHAMPION) is None


def test_whoever_acts_is_whom_the_environment_knows(
    configure: Callable[..., Context], add: Add, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a person who asked in their own name, which the environment tells
    arena = configure(
        DEPLOYMENT__APPROVAL="person", DEPLOYMENT__FOUR_EYES="true", DEPLOYMENT__IDENTITY="ACTOR"
    )
    transitions.move(arena, "stage", add(arena), "me", "it is good")
    transitions.request(arena, "1", "bob", "better")
    monkeypatch.setenv("ACTOR", "Bob")
    # when they approve in another's name, then in theirs
    for who, told in (("alice", "is not who acts here"), ("bob", "may not approve it")):
        code, _, err = run("approve", "--env", "test", "--who", who, "--why", "well done")
        assert (code, told in " ".join(err.split())) == (1, True)
    assert arena.registry.aliased(CHAMPION) is None
    # then somebody else can
    monkeypatch.setenv("ACTOR", "alice")
    code, _, _ = run("approve", "--env", "test", "--why", "well done")
    assert (code, arena.registry.aliased(CHAMPION)) == (0, "1")
    assert history(arena.lakehouse).row(-1, named=True)["who"] == "alice"
