"""Staging, release and production on Databricks, executed with a workspace on the stage.

They tell one story, in this order: what is deployed, which jobs are run, and what is promoted.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pytest_cookies.plugin import Cookies
from stage import CREATED, RELEASES, Stage, open_stage
from support import checked
from test_delivery import approved, decide, production, release, staging

pytestmark = pytest.mark.act

FIRST, SECOND, *_ = RELEASES
WAITING = {"APPROVAL": "environment"}


@pytest.fixture(scope="module")
def stage(
    cookies_session: Cookies, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    """The default project on Databricks, on a stage of its own."""
    project = checked(cookies_session, template)(platform="databricks").project_path
    return open_stage(tmp_path_factory.mktemp("stage"), project)


def workspace(stage: Stage, **change: Any) -> dict[str, Any]:
    """What the workspace knows, after a change; the calls so far are forgotten with one."""
    path = stage.folder / "workspace.json"
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if change:
        known |= {"calls": [], **change}
        path.write_text(json.dumps(known), encoding="utf-8")
    return known


def changes(stage: Stage) -> list[str]:
    """Calls that deploy or run something, without the word `bundle`."""
    words = [call[1:] for call in workspace(stage)["calls"] if call[0] == "bundle"]
    return [" ".join(call) for call in words if call[0] != "summary"]


def digest(stage: Stage, tag: str) -> str:
    (wheel,) = (stage.folder / "releases" / tag).glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_where_the_integration_job_fails_there_is_no_release(stage: Stage) -> None:
    workspace(stage, fails=["integration"])
    stage.branch("main", "origin/main")
    stage.tag(FIRST)
    done = staging(stage, "push", f"refs/tags/{FIRST}")
    assert done.jobs == {"build": "success", "loop": "failure"}, done.output
    assert "Error: Task ingest failed!" in done.output
    advice = r"integration -- --as_of=.* ❌ failure .*: its page names the task"
    assert re.search(advice, done.output)
    assert (stage.github.releases, stage.github.statuses) == ({}, {})
    # and what is no release does not reach production
    stage.git("push", "--quiet", "--delete", "origin", FIRST)
    stage.git("tag", "--delete", FIRST)
    stage.branch("release", "HEAD")
    done = release(stage, **WAITING)
    assert done.jobs == {"candidate": "failure"}, done.output
    assert "is no release" in done.output
    assert workspace(stage)["deployed"].keys() == {"staging"}


def test_staging_deploys_the_wheel_that_was_built_and_waits_for_the_job(stage: Stage) -> None:
    workspace(stage, fails=[])
    stage.tag(FIRST)
    done = staging(stage, "push", f"refs/tags/{FIRST}")
    assert done.jobs == dict.fromkeys(("build", "loop", "release"), "success"), done.output
    assert changes(stage) == [
        "deploy --target staging --var build=true",
        f"run --target staging integration -- --as_of={CREATED}",
    ]
    assert workspace(stage)["deployed"]["staging"]["wheel"] == digest(stage, FIRST)
    reports = stage.folder / "artifacts" / str(done.id) / "staging-reports" / "index.html"
    assert reports.read_text(encoding="utf-8").endswith("/Volumes/staging/schema/state/reports")


def test_a_release_is_trained_and_promoted_by_whoever_approves(stage: Stage) -> None:
    workspace(stage, calls=[])
    # given nobody's approval
    approved(stage, ("bob", "promotion", "rejected"))
    done = release(stage, **WAITING)
    # then the wheel of the release is deployed, and its version waits
    assert done.jobs == {"candidate": "success", "approval": "failure"}, done.output
    trained = [
        "deploy --target prod --var build=true",
        f"run --target prod training -- --as_of={CREATED}",
        "run --target prod --only gates deployment -- --model_version=1",
    ]
    assert changes(stage) == trained
    assert workspace(stage)["deployed"]["prod"]["wheel"] == digest(stage, FIRST)
    assert workspace(stage)["aliases"] == {"challenger": 1}
    # when the next one is approved
    workspace(stage, calls=[])
    approved(stage, ("bob", "promotion", "approved"))
    done = release(stage, **WAITING)
    # then that very version is promoted, in the name of who did
    jobs = ("candidate", "approval", "promote", "rollout")
    assert done.jobs == dict.fromkeys(jobs, "success"), done.output
    (*_, promoted) = changes(stage)
    why = f"Run {done.id} was approved"
    assert promoted == f"run --target prod deployment -- --model_version=2 --who=bob --why={why}"
    assert workspace(stage)["aliases"] == {"champion": 2}
    assert workspace(stage)["who"] == {"2": f"bob: {why}"}


@pytest.mark.parametrize("job", ["training", "deployment"])
def test_what_fails_in_the_workspace_promotes_nothing(stage: Stage, job: str) -> None:
    workspace(stage, fails=[job])
    done = release(stage, **WAITING)
    assert done.jobs == {"candidate": "failure"}, done.output
    assert workspace(stage)["aliases"]["champion"] == 2
    workspace(stage, fails=[])


def test_by_hand_a_person_decides(stage: Stage) -> None:
    why = "It's $(odd); `x`"
    workspace(stage, calls=[])
    for action, version in (("init", ""), ("approve", "3"), ("rollback", ""), ("reject", "3")):
        waiting = {"champion": 2, "challenger": 3}
        workspace(stage, aliases=waiting, calls=workspace(stage)["calls"])
        done = decide(stage, action, "bob", version)
        assert done.jobs.pop("rollout", None) == ("success" if action == "approve" else None)
        assert done.jobs == {"decide": "success"}, done.output
    named = f"--who=bob --why={why}"
    assert changes(stage) == [
        "deploy --target prod --var build=true",
        "run --target prod init",
        f"run --target prod deployment -- --model_version=3 {named}",
        f"run --target prod rollback -- {named}",
        f"run --target prod reject -- --model_version=3 {named}",
    ]
    # and what does not wait is not refused
    done = decide(stage, "reject", "bob", "3")
    assert done.jobs == {"decide": "failure"}, done.output


def test_a_night_sees_to_it_that_the_loop_ran(stage: Stage) -> None:
    run = f"run --target prod loop -- --as_of={CREATED}"
    well = {"state": {"result_state": "SUCCESS"}, "run_page_url": "https://there/run/1"}
    # given a schedule whose run failed, and a workspace where it fails again
    workspace(stage, fails=["loop"], runs=[{"state": {"result_state": "FAILED"}}])
    done = production(stage)
    assert done.jobs == {"daily": "failure", "alert": "success"}, done.output
    assert changes(stage) == [run]
    assert stage.github.issues[-1]["state"] == "open"
    # when it goes well, the issue is closed
    workspace(stage, fails=[])
    assert production(stage).jobs == {"daily": "success", "alert": "success"}
    assert changes(stage) == [run]
    assert stage.github.issues[-1]["state"] == "closed"
    # when the schedule's own run went well, none is added
    workspace(stage, runs=[well])
    done = production(stage)
    assert done.jobs == {"daily": "success", "alert": "success"}, done.output
    assert changes(stage) == []


def test_a_job_that_has_not_logged_in_reaches_nothing(stage: Stage) -> None:
    login = stage.work / ".github" / "actions" / "login" / "action.yml"
    text = login.read_text(encoding="utf-8")
    login.write_text(text.replace("DATABRICKS_AUTH_TYPE=github-oidc\n", "A=b\n"), encoding="utf-8")
    stage.commit("release", "A slip")
    stage.tag(SECOND)
    workspace(stage, calls=[])
    done = staging(stage, "push", f"refs/tags/{SECOND}")
    assert done.jobs == {"build": "success", "loop": "failure"}, done.output
    assert "cannot configure default credentials (DATABRICKS_AUTH_TYPE)" in done.output
