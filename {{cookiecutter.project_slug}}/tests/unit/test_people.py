from __future__ import annotations

import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.settings import DeploymentSettings
from {{cookiecutter.package_name}}.deployment.people import (
    acting,
    require_name,
    same_person,
)

AUTHENTICATED = DeploymentSettings(identity="ACTOR")


@pytest.mark.parametrize(
    "other",
    ["bob", "BOB", " bob ", "b\u200bob", "Bób", "B.o.b", "ｂｏｂ", "b0b", "\u0412ob"],
)
def test_one_person_however_it_is_typed(other: str) -> None:
    assert same_person("Bob", other)


def test_a_name_in_look_alike_letters_is_the_same() -> None:
    assert same_person("cap", "\u0441\u0430\u0440")
    assert same_person("Ian", "lan")


@pytest.mark.parametrize("other", ["rob", "bobby", "bob smith", "alice"])
def test_others_are_others(other: str) -> None:
    assert not same_person("Bob", other)


@pytest.mark.parametrize("who", ["", "  ", "\u200b", "...", "\u00a0"])
def test_nobody_acts_without_a_name(who: str) -> None:
    with pytest.raises(UserError, match="is empty"):
        require_name(who)


def test_without_an_identity_who_is_named_acts() -> None:
    assert acting(DeploymentSettings(), "bob", "me", {}) == "bob"
    assert acting(DeploymentSettings(), None, "me", {}) == "me"


def test_an_identity_acts_and_may_be_named() -> None:
    assert acting(AUTHENTICATED, None, "me", {"ACTOR": "Bob"}) == "Bob"
    assert acting(AUTHENTICATED, "bob ", "me", {"ACTOR": "Bob"}) == "Bob"


@pytest.mark.parametrize("who", ["alice", "b0b", ""])
def test_another_name_than_the_identity_is_refused(who: str) -> None:
    with pytest.raises(UserError, match="is not who acts here: ACTOR is Bob"):
        acting(AUTHENTICATED, who, "me", {"ACTOR": "Bob"})


def test_an_identity_that_is_not_set_is_refused() -> None:
    with pytest.raises(UserError, match="ACTOR, which tells who acts"):
        acting(AUTHENTICATED, "bob", "me", {"ACTOR": " "})
