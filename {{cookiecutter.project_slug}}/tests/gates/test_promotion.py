"""Requests, approvals, promotions and rollbacks, also when they are killed or meet."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from {{cookiecutter.package_name}} import __name__ as package
from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.deployment import transitions
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse
from {{cookiecutter.package_name}}.tracking.registry import CHALLENGER, CHAMPION
from {{cookiecutter.package_name}}.tracking.stages import history

from tests.gates.conftest import sign_again

Run = Callable[..., tuple[int, str, str]]
Breed = Callable[[str], ModelVersion]
Configure = Callable[..., Context]
Add = Callable[..., str]
Promote = Callable[[Context, str], str]
Act = Callable[[Context], object]

PERSON = {"DEPLOYMENT__APPROVAL": "person"}
WRITES = [
    (Lakehouse, "append_if_unchanged"),
    *((MlflowClient, f"{verb}_registered_model_alias") for verb in ("set", "delete")),
    (MlflowClient, "set_model_version_tag"),
]
MEETINGS = [*((Lakehouse, name) for name in ("version", "scan")), *WRITES[:-1]]


def state(arena: Context) -> tuple[object, ...]:
    """What must agree: aliases, stages, and the log without its times."""
    aliases = {alias: arena.registry.aliased(alias) for alias in (CHAMPION, CHALLENGER)}
    stages = {version.version: version.tags["stage"] for version in arena.registry.versions()}
    return aliases, stages, history(arena.lakehouse).drop("at").rows()


def stages(arena: Context) -> list[str]:
    """Stages of all versions, oldest first."""
    return [version.tags["stage"] for version in reversed(arena.registry.versions())]


@pytest.fixture(scope="module")
def first() -> list[Context]:
    """Where the first such arena is kept."""
    return []


@pytest.fixture
def waiting(
    first: list[Context], configure: Configure, add: Add, promote: Promote
) -> Callable[[], Context]:
    """A new arena: version 2 followed 1 as champion, and a request for 3 waits."""

    def played() -> Context:
        arena = configure(**PERSON)
        for _ in range(2):
            promote(arena, add(arena))
        transitions.move(arena, "stage", add(arena), "me", "it is good")
        assert not transitions.request(arena, "3", "asker", "better", "2")
        return arena

    def copied() -> Context:
        if not first:
            first.append(played())
        (template,) = first
        arena = configure(**PERSON)
        shutil.copytree(template.lakehouse.root, arena.lakehouse.root)
        names = {"old": template.settings.mlflow.model, "new": arena.settings.mlflow.model}
        with sqlite3.connect(
            arena.settings.mlflow.tracking_uri.removeprefix("sqlite:///")
        ) as store:
            for table in (
                "registered_models",
                "model_versions",
                "model_version_tags",
                "registered_model_aliases",
            ):
                columns = [column for _, column, *_ in store.execute(f"PRAGMA table_info({table})")]
                chosen = ", ".join(":new" if column == "name" else column for column in columns)
                copy = f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE name = :old"  # noqa: S608
                store.execute(copy, names)
        store.close()
        for version in arena.registry.versions():
            sign_again(arena.registry, str(version.version))
        return arena

    return copied


# Requests and approvals


def test_policy_grants_at_once(arena: Context, add: Add) -> None:
    transitions.move(arena, "stage", add(arena), "me", "it is good")
    assert transitions.request(arena, "1", "asker", "better")
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("1", None)
    moves = history(arena.lakehouse).select("action", "who", "why").rows()
    assert moves[1:] == [("request", "asker", "better"), ("approve", "policy", "better")]


def test_a_request_waits_for_a_person(waiting: Callable[[], Context]) -> None:
    arena = waiting()
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("2", "3")
    assert stages(arena) == ["Archived", "Production", "Staging"]


def test_an_approval_promotes_and_says_who_and_why(
    waiting: Callable[[], Context], run: Run
) -> None:
    arena = waiting()
    code, out, _ = run("approve", "--env", "test", "--who", "boss", "--why", "well done")
    assert (code, "Version 3 is the champion" in out) == (0, True)
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("3", None)
    assert stages(arena) == ["Archived", "Archived", "Production"]
    tags = arena.registry.version("3").tags
    assert (tags["stage.who"], tags["stage.why"]) == ("boss", "well done")
    assert arena.registry.version("2").tags["stage.why"] == "version 3 took its place"


def test_a_rejection_archives_and_the_champion_stays(
    waiting: Callable[[], Context], run: Run
) -> None:
    arena = waiting()
    code, out, _ = run("reject", "--env", "test", "--who", "boss", "--why", "too risky")
    assert (code, "Version 3 is archived" in out) == (0, True)
    assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("2", None)
    assert stages(arena) == ["Archived", "Production", "Archived"]
    assert history(arena.lakehouse).row(-1, named=True)["why"] == "too risky"


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_nothing_waits(verb: str, waiting: Callable[[], Context], run: Run) -> None:
    arena = waiting()
    transitions.decide(arena, "boss", "well done", approve=True, version=None)
    code, _, err = run(verb, "--env", "test", "--who", "other", "--why", "me too")
    assert (code, err.startswith("✗ No request waits for a decision.")) == (1, True)


def test_nothing_waits_in_a_new_registry(arena: Context) -> None:
    with pytest.raises(UserError, match="No request waits"):
        transitions.decide(arena, "boss", "well done", approve=True, version=None)


def with_deployment(arena: Context, **changes: object) -> Context:
    deployment = arena.settings.deployment.model_copy(update=changes)
    return Context(arena.settings.model_copy(update={"deployment": deployment}), arena.problem)


def test_four_eyes_refuse_the_one_who_asked(waiting: Callable[[], Context]) -> None:
    arena = with_deployment(waiting(), four_eyes=True)
    with pytest.raises(UserError, match="asker asked for this promotion and may not approve it"):
        transitions.decide(arena, "asker", "well done", approve=True, version=None)
    assert arena.registry.aliased(CHAMPION) == "2"


def test_four_eyes_let_another_approve(waiting: Callable[[], Context]) -> None:
    arena = with_deployment(waiting(), four_eyes=True)
    assert transitions.decide(arena, "boss", "well done", approve=True, version=None) == "3"


def test_four_eyes_let_the_asker_withdraw(waiting: Callable[[], Context]) -> None:
    arena = with_deployment(waiting(), four_eyes=True)
    assert transitions.decide(arena, "asker", "changed my mind", approve=False, version=None) == "3"


def test_a_request_is_stale_when_the_challenger_changed(
    waiting: Callable[[], Context], add: Add
) -> None:
    arena = waiting()
    transitions.move(arena, "stage", add(arena), "me", "it is better still")
    with pytest.raises(UserError, match="The request for version 3 is stale"):
        transitions.decide(arena, "boss", "well done", approve=True, version=None)
    assert (arena.registry.aliased(CHAMPION), stages(arena)[2:]) == ("2", ["Archived", "Staging"])


def test_a_request_is_stale_when_the_champion_changed(waiting: Callable[[], Context]) -> None:
    arena = waiting()
    transitions.rollback(arena, "me", "it was bad")
    with pytest.raises(UserError, match="The request for version 3 is stale"):
        transitions.decide(arena, "boss", "well done", approve=True, version=None)
    assert arena.registry.aliased(CHAMPION) == "1"


def test_a_request_outlives_the_failure_of_another_version(
    waiting: Callable[[], Context], add: Add
) -> None:
    arena = waiting()
    transitions.move(arena, "archive", add(arena), "me", "it is bad")
    assert transitions.decide(arena, "boss", "well done", approve=True, version=None) == "3"


def test_only_the_challenger_can_be_requested(arena: Context, add: Add) -> None:
    with pytest.raises(UserError, match="Version 1 is not the challenger"):
        transitions.request(arena, add(arena), "asker", "trust me")
    assert (arena.registry.aliased(CHAMPION), history(arena.lakehouse).height) == (None, 0)


def test_a_comparison_with_a_former_champion_is_no_evidence(
    arena: Context, add: Add, promote: Promote
) -> None:
    for _ in range(2):
        promote(arena, add(arena))
    transitions.move(arena, "stage", add(arena), "me", "it is good")
    with pytest.raises(UserError, match="The champion changed since version 3 was compared"):
        transitions.request(arena, "3", "asker", "better than version 1", "1")
    assert arena.registry.aliased(CHAMPION) == "2"


def test_what_waits_is_not_asked_again(waiting: Callable[[], Context]) -> None:
    # given a request of the asker, who may not approve it
    arena = waiting()
    before = state(arena)
    # when somebody else asks for the same
    assert not transitions.request(arena, "3", "webhook", "better, as measured again", "2")
    # then nothing changed, and it still was the asker
    assert state(arena) == before
    with pytest.raises(UserError, match="asker asked for this promotion and may not approve it"):
        transitions.decide(
            with_deployment(arena, four_eyes=True), "asker", "mine", approve=True, version=None
        )


def test_files_changed_while_a_request_waits_are_not_approved(
    configure: Configure, add: Add, breed: Breed, tmp_path: Path
) -> None:
    arena = configure(**PERSON)
    folder = shutil.copytree(
        mlflow.artifacts.download_artifacts(breed("good").source), tmp_path / "files"
    )
    transitions.move(arena, "stage", add(arena, folder=folder), "me", "it is good")
    transitions.request(arena, "1", "asker", "better")
    (folder / "MLmodel").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="not those that were registered"):
        transitions.decide(arena, "boss", "well done", approve=True, version=None)
    assert arena.registry.aliased(CHAMPION) is None


def test_the_champion_is_not_examined_again(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena))
    before = state(arena)
    code, _, err = run("check", "--env", "test", "--version", "1")
    assert (code, err.startswith("✗ Version 1 is the champion."), state(arena)) == (1, True, before)


# History


def test_history_shows_who_moved_what_when_and_why(
    waiting: Callable[[], Context], run: Run
) -> None:
    log = history(waiting().lakehouse)
    assert log["at"].is_sorted()
    last = log.row(-1, named=True)
    assert [
        last[key]
        for key in ("action", "version", "from_stage", "to_stage", "champion", "who", "why")
    ] == [*("request", "3", "Staging", "Staging", "2", "asker", "better")]
    code, out, _ = run("history", "--env", "test")
    shown = [line for line in out.splitlines() if "asker" in line]
    assert (code, len(shown), "request" in shown[0], "better" in shown[0]) == (0, 1, True, True)


# Rollback


def test_a_rollback_restores_the_champion_before_and_is_recorded(
    waiting: Callable[[], Context], run: Run
) -> None:
    arena = waiting()
    code, out, _ = run("rollback", "--env", "test", "--who", "boss", "--why", "it was bad")
    assert (code, "Version 1 is the champion again" in out) == (0, True)
    assert arena.registry.aliased(CHAMPION) == "1"
    assert stages(arena)[:2] == ["Production", "Archived"]
    last = history(arena.lakehouse).row(-1, named=True)
    assert [last[key] for key in ("action", "version", "champion", "who", "why")] == [
        *("rollback", "1", "2", "boss", "it was bad")
    ]


def test_rollbacks_go_back_one_by_one_until_there_is_none(
    arena: Context, add: Add, promote: Promote
) -> None:
    for _ in range(3):
        promote(arena, add(arena))
    assert [transitions.rollback(arena, "me", why) for why in ("bad", "as bad")] == ["2", "1"]
    with pytest.raises(UserError, match="no earlier champion"):
        transitions.rollback(arena, "me", "worst")
    assert (arena.registry.aliased(CHAMPION), stages(arena)) == (
        "1",
        ["Production", "Archived", "Archived"],
    )


def test_a_version_rolled_back_is_not_gone_back_to(
    arena: Context, add: Add, promote: Promote
) -> None:
    for _ in range(2):
        promote(arena, add(arena))
    transitions.rollback(arena, "me", "bad")
    promote(arena, add(arena))
    assert transitions.rollback(arena, "me", "bad again") == "1"


def test_there_is_nothing_to_roll_back_to(
    arena: Context, add: Add, promote: Promote, run: Run
) -> None:
    promote(arena, add(arena))
    code, _, err = run("rollback", "--env", "test", "--why", "bad")
    assert (
        code,
        err.startswith("✗ There is no earlier champion"),
        arena.registry.aliased(CHAMPION),
    ) == (1, True, "1")


def test_files_that_were_changed_are_not_rolled_back_to(
    arena: Context, add: Add, breed: Breed, promote: Promote, tmp_path: Path
) -> None:
    folder = shutil.copytree(
        mlflow.artifacts.download_artifacts(breed("good").source), tmp_path / "files"
    )
    promote(arena, add(arena, folder=folder))
    promote(arena, add(arena))
    (folder / "MLmodel").write_text("", encoding="utf-8")
    before = state(arena)
    with pytest.raises(UserError, match="not those that were registered"):
        transitions.rollback(arena, "me", "bad")
    assert state(arena) == before


# Two at once


@contextmanager
def before_call(
    number: int, calls: list[tuple[type, str]], act: Callable[[], object]
) -> Iterator[None]:
    """Do something just before the n-th of these calls."""
    made, inside = count(), threading.local()

    def hooked(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            if not getattr(inside, "busy", False) and next(made) == number:
                inside.busy = True
                act()
            return call(*arguments, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in calls:
            patch.setattr(owner, name, hooked(getattr(owner, name)))
        yield


def approve(arena: Context) -> object:
    return transitions.decide(arena, "boss", "well done", approve=True, version=None)


def reject(arena: Context) -> object:
    return transitions.decide(arena, "critic", "too risky", approve=False, version=None)


def approve_too(arena: Context) -> object:
    return transitions.decide(arena, "other", "me too", approve=True, version=None)


@pytest.mark.parametrize("other", [approve_too, reject])
def test_of_two_decisions_one_wins_wherever_they_meet(
    other: Act, waiting: Callable[[], Context]
) -> None:
    outcomes: list[str] = []

    def attempt(act: Act, arena: Context) -> None:
        try:
            act(arena)
            outcomes.append("won")
        except UserError as error:
            outcomes.append(str(error))

    for number in count():
        arena, second = waiting(), open_context("test")
        outcomes.clear()
        with before_call(number, MEETINGS, lambda: attempt(other, second)):  # noqa: B023 called at once
            attempt(approve, arena)
        if len(outcomes) == 1:
            break
        decisions = history(arena.lakehouse)["action"].to_list()[6:]
        assert (outcomes.count("won"), len(decisions)) == (1, 1)
        (told,) = (outcome for outcome in outcomes if outcome != "won")
        assert any(
            text in told
            for text in ("Somebody else moved a version", "No request waits", "is stale")
        )
        champion = "3" if decisions == ["approve"] else "2"
        assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == (
            champion,
            None,
        )
        assert stages(arena).count("Production") == 1
        assert arena.registry.version(champion).tags["stage"] == "Production"
    assert number > 8


def test_of_two_threads_that_approve_one_wins(waiting: Callable[[], Context]) -> None:
    arena, barrier = waiting(), threading.Barrier(2)
    won, told = [], []

    def attempt(context: Context, who: str) -> None:
        barrier.wait()
        try:
            won.append(transitions.decide(context, who, "well done", approve=True, version=None))
        except UserError as error:
            told.append(str(error))

    threads = [
        threading.Thread(target=attempt, args=(open_context("test"), who)) for who in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (won, len(told)) == (["3"], 1)
    assert history(arena.lakehouse)["action"].to_list()[6:] == ["approve"]
    assert (arena.registry.aliased(CHAMPION), stages(arena)) == (
        "3",
        ["Archived", "Archived", "Production"],
    )


# Killed


class Killed(BaseException):
    """Nothing in the sources catches it: what comes after does not happen."""


def die() -> None:
    raise Killed


def stage(arena: Context) -> None:
    transitions.move(arena, "stage", "3", "me", "it is good, again")


def rollback(arena: Context) -> object:
    return transitions.rollback(arena, "boss", "it was bad")


def request(arena: Context) -> object:
    with suppress(UserError):  # granted already
        return transitions.request(
            with_deployment(arena, approval="policy"), "3", "asker", "better still", "2"
        )
    return None


def run_again(act: Act, waiting: Callable[[], Context]) -> Iterator[Context]:
    """Arenas in which it was killed before its first call, its second, ..., and then run again."""
    for number in count():
        arena = waiting()
        try:
            with before_call(number, WRITES, die):
                act(arena)
        except Killed:
            assert arena.registry.aliased(CHAMPION) is not None
            act(open_context("test"))
            yield arena
        else:
            assert number > 4  # what is as it should be is not written again
            return


@pytest.mark.parametrize("act", [stage, approve, reject, rollback])
def test_what_was_killed_between_any_two_calls_is_finished_by_the_next_run(
    act: Act, waiting: Callable[[], Context]
) -> None:
    undisturbed = waiting()
    act(undisturbed)
    expected = state(undisturbed)
    for arena in run_again(act, waiting):
        assert state(arena) == expected


def test_a_request_killed_between_any_two_calls_is_granted_once_by_the_next_run(
    waiting: Callable[[], Context],
) -> None:
    for arena in run_again(request, waiting):
        assert history(arena.lakehouse).filter(action="approve", version="3").height == 1
        assert (arena.registry.aliased(CHAMPION), arena.registry.aliased(CHALLENGER)) == ("3", None)
        assert stages(arena) == ["Archived", "Archived", "Production"]


def test_a_process_killed_in_a_promotion_is_finished_by_the_next(
    waiting: Callable[[], Context], run: Run
) -> None:
    arena = waiting()
    lines = (
        "import os",
        f"from {package} import cli",
        f"from {package}.tracking import registry",
        "registry.Registry.point = lambda *given: registry.CHAMPION in given and os._exit(9)",
        "cli.main()",
    )
    verb = ("approve", "--env", "test", "--who", "boss", "--why", "well done")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", "\n".join(lines), *verb], env=paths, check=False, capture_output=True
    )
    assert (killed.returncode, arena.registry.aliased(CHAMPION)) == (9, "2")
    code_after, out, _ = run(*verb)
    assert (code_after, "Version 3 is the champion" in out) == (0, True)
    assert history(arena.lakehouse)["action"].to_list()[6:] == ["approve"]
    assert (arena.registry.aliased(CHAMPION), stages(arena)) == (
        "3",
        ["Archived", "Archived", "Production"],
    )
