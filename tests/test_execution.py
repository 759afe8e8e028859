"""Every workflow of a rendered project, executed: green, and red for each of its reasons.

Merge requests are independent of each other; staging, release and production tell one story, in
this order.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_cookies.plugin import Cookies
from stage import REPOSITORY, TOKEN, Run, Stage, background, post, wait_for
from support import checked

pytestmark = pytest.mark.act

GREEN = dict.fromkeys(
    ("lint", "types", "unit", "integration", "model", "report", "comment"), "success"
)
# The suites have tests of their own; here a few of them are enough.
KEPT = {"unit": {"test_settings.py"}, "integration": {"test_ci.py"}, "gates": set()}
NUMBER = 7
ONE_PYTHON = ("--matrix", "python:3.12")


@pytest.fixture(scope="module")
def stage(
    cookies_session: Cookies, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Stage:
    """A repository on a stage whose loop is quick: six weeks of data, the windows of `test`."""
    act = Path(os.environ.get("ACT", "act"))
    made = Stage(tmp_path_factory.mktemp("stage"), act)
    made.build(checked(cookies_session, template)().project_path)
    for suite, kept in KEPT.items():
        for path in (made.work / "tests" / suite).iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    passing = "def test_open() -> None:\n    assert 1 + 1 == 2\n"
    (made.work / "tests" / "gates" / "test_open.py").write_text(passing, encoding="utf-8")
    shutil.rmtree(made.work / "tests" / "spark")
    shutil.rmtree(made.work / "notebooks")
    windows = (
        (made.work / "conf" / "test.yml").read_text(encoding="utf-8").partition("training:")[2]
    )
    for env in ("staging", "prod"):
        path = made.work / "conf" / f"{env}.yml"
        before = path.read_text(encoding="utf-8")
        deployment = before.partition("deployment:\n")[2] or "  approval: policy\n"
        states = before.partition("training:")[0].partition("deployment:")[0]
        if env == "prod":
            # One folder outlives the jobs, as a self-hosted runner's or a bucket does.
            states = states.replace("{project}/.data", (made.folder / "disk").as_posix())
        # Days are few and their differences large: only what a test plants may stop a promotion.
        margins = "  margin: 10\n  slice_margin: 10\n"
        path.write_text(
            f"threads: 1\n{states}training:{windows}\ndeployment:\n{deployment}{margins}",
            encoding="utf-8",
        )
    data_end(made, "2013, 2, 15")
    made.commit("main", "As rendered")
    return made


def data_end(stage: Stage, day: str) -> None:
    path = stage.work / "src" / "flight_delays" / "problem" / "sources.py"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [
        f"DATA_ENDS = datetime({day}, tzinfo=UTC)\n" if it.startswith("DATA_ENDS =") else it
        for it in lines
    ]
    assert changed != lines
    path.write_text("".join(changed), encoding="utf-8")


# Merge requests


def merge_request(stage: Stage, *options: str, fork: bool = False) -> Run:
    """Run what a merge request of the branch that the stage stands on would run."""
    base = stage.git("rev-parse", "origin/main")
    repository = "stranger/flight-delays" if fork else REPOSITORY
    request: dict[str, Any] = {
        "number": NUMBER,
        "base": {"ref": "main", "sha": base},
        "head": {
            "ref": "change",
            "sha": stage.git("rev-parse", "HEAD"),
            "repo": {"full_name": repository},
        },
    }
    payload = {"pull_request": request, "number": NUMBER, "repository": {"full_name": REPOSITORY}}
    return stage.run("merge-request", "pull_request", payload, "ann", *options)


def report(stage: Stage) -> str:
    (comment,) = stage.github.comments[NUMBER]
    return str(comment["body"])


def test_a_good_merge_request_is_green_and_says_so(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A word", **{"docs/word.md": "A word.\n"})
    done = merge_request(stage)
    assert done.jobs == GREEN, done.output
    text = report(stage)
    assert "## ✅ Ready to merge" in text
    assert all(f"| unit-{python} | " in text for python in ("3.11", "3.12", "3.13"))
    assert re.search(r"\| integration \| [1-9]\d* \| 0 \| 0 \|", text)
    assert (
        "✅ As far as this sample can tell, the model is as good as that of the target branch"
        in text
    )
    assert "(gain 0.0000, 0.0000 to 0.0000)" in text.replace("\\", "")
    assert stage.github.changes == [("POST", f"/issues/{NUMBER}/comments")]


FAULTS = {
    "lint": ("src/flight_delays/extra.py", "import os\n"),
    "types": ("src/flight_delays/problem/extra.py", '"""Extra."""\n\nCOUNT: int = "one"\n'),
    "unit": ("tests/unit/test_extra.py", "def test_extra() -> None:\n    assert 1 + 1 == 3\n"),
    "integration": (
        "tests/integration/test_extra.py",
        "def test_extra() -> None:\n    assert 1 + 1 == 3\n",
    ),
}


@pytest.mark.parametrize("job", FAULTS)
def test_a_fault_is_red_and_stops_what_comes_after(stage: Stage, job: str) -> None:
    name, text = FAULTS[job]
    stage.branch("change", "origin/main")
    stage.commit("change", "A fault", **{name: text})
    stage.github.changes.clear()
    posted = NUMBER in stage.github.comments
    done = merge_request(stage, *ONE_PYTHON)
    # then the job is red, those beside it are green, and none after it ran
    later = {"model"} if job == "integration" else {"integration", "model"}
    assert done.jobs == {name: result for name, result in GREEN.items() if name not in later} | {
        job: "failure"
    }
    said = report(stage)
    assert f"Not ready to merge: {job}\n" in said
    assert "No model was compared" in said
    if job in ("unit", "integration"):
        assert f"tests.{job}.test\\_extra.test\\_extra" in said
    # and the comment was brought up to date, not repeated
    method, path = (
        ("PATCH", f"/issues/comments/{1000 * NUMBER}")
        if posted
        else ("POST", f"/issues/{NUMBER}/comments")
    )
    assert stage.github.changes == [(method, path)]


def test_a_worse_model_is_red_with_the_verdict_in_the_comment(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    declared = "src/flight_delays/problem/model.py"
    stage.edit(
        declared,
        '    features=("carrier", "origin", "dest", *_OF_THE_ROW, *_STORED),',
        '    features=("carrier",),',
    )
    stage.edit(
        declared,
        '_CATEGORICAL = ("carrier", "origin", "dest", "manufacturer")',
        '_CATEGORICAL = ("carrier",)',
    )
    stage.commit("change", "Look at the carrier only")
    done = merge_request(stage, *ONE_PYTHON)
    assert done.jobs == GREEN | {"model": "failure"}, done.output
    said = report(stage)
    assert "Not ready to merge: model\n" in said
    assert "❌ The model is worse than that of the target branch" in said


def test_a_fork_gets_no_comment(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A fault of a stranger", **{"src/flight_delays/extra.py": "import os\n"})
    stage.github.changes.clear()
    done = merge_request(stage, *ONE_PYTHON, fork=True)
    assert "comment" not in done.jobs
    assert done.jobs["report"] == "success"
    assert stage.github.changes == []


# Staging


def staging(stage: Stage, event: str, *options: str) -> Run:
    """What a push to main, or the night, runs."""
    done = stage.run("staging", event, {"ref": "refs/heads/main"}, "ann", *options)
    conclusion = "failure" if "failure" in done.jobs.values() else "success"
    commit = stage.git("rev-parse", "HEAD")
    stage.github.runs.append(
        {"id": done.id, "head_sha": commit, "event": event, "conclusion": conclusion}
    )
    return done


def test_a_red_night_opens_an_issue_that_a_green_one_closes(stage: Stage) -> None:
    # given a loop that cannot start
    stage.branch("main", "origin/main")
    good = stage.git("rev-parse", "HEAD")
    stage.edit("conf/staging.yml", "min_rows: 200", "min_rows: none")
    stage.commit("main", "A slip")
    # when two nights are red
    for _ in range(2):
        done = staging(stage, "schedule")
        assert done.jobs == {"build": "success", "loop": "failure", "alert": "success"}, done.output
        assert "training.min_rows" in done.output
        assert "| ingest | ❌ failure | the log names the source" in done.output
    # then there is one issue with one comment
    (issue,) = stage.github.issues
    assert (issue["title"], issue["state"]) == ("Staging fails at night", "open")
    assert "| loop | ❌ failure | the summary of the run names the step" in issue["body"]
    assert [it["body"][:9] for it in stage.github.comments[issue["number"]]] == ["Still red"]
    # when the cause is mended
    stage.branch("main", good)
    done = staging(stage, "schedule")
    # then it is closed, and the night's wheel is not attested
    assert done.jobs == {"build": "success", "loop": "success", "alert": "success"}, done.output
    assert issue["state"] == "closed"
    assert [it["body"][:11] for it in stage.github.comments[issue["number"]]] == [
        "Still red. ",
        "Green again",
    ]
    assert not (stage.folder / "attestations").exists()


def test_a_push_to_main_runs_the_loop_and_attests_the_wheel(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    done = staging(stage, "push")
    assert done.jobs == {"build": "success", "loop": "success", "attest": "success"}, done.output
    assert (
        f"[Reports of this run](https://github.test/artifacts/{done.id}/staging-reports)"
        in done.output
    )
    assert list((stage.folder / "artifacts" / str(done.id) / "staging-reports").glob("**/*.html"))
    assert len(list((stage.folder / "attestations").iterdir())) == 1


def test_a_red_push_attests_nothing(stage: Stage) -> None:
    before = list((stage.folder / "attestations").iterdir())
    stage.branch("broken", "origin/main")
    stage.edit("conf/staging.yml", "min_rows: 200", "min_rows: 99999999")
    stage.commit("broken", "Ask for too much")
    done = staging(stage, "push")
    assert done.jobs == {"build": "success", "loop": "failure"}, done.output
    assert (
        "| train | ❌ failure | the log names what is missing, often days of data |" in done.output
    )
    assert "| deploy | ⏭️ skipped |  |" in done.output
    assert list((stage.folder / "attestations").iterdir()) == before


# Release and production


def champion(stage: Stage) -> str | None:
    store = stage.folder / "disk" / "prod" / "mlflow.db"
    if not store.exists():
        return None
    with sqlite3.connect(store) as connection:
        found = connection.execute(
            "SELECT version FROM registered_model_aliases WHERE alias = 'champion'"
        ).fetchone()
    return None if found is None else str(found[0])


def approved(stage: Stage, approver: str | None) -> None:
    """Have the environment `promotion` approved by somebody, or let it ask nobody."""
    environments = [{"name": "promotion"}]
    reviews = (
        [{"state": "approved", "user": {"login": approver}, "environments": environments}]
        if approver
        else []
    )
    stage.github.approvals = reviews


def release(stage: Stage, approver: str | None = "bob") -> Run:
    """What a push to release runs: asked for by ann, approved by another."""
    approved(stage, approver)
    return stage.run("release", "push", {"ref": "refs/heads/release"}, "ann")


def decide(stage: Stage, action: str, approver: str | None = None) -> Run:
    """What is started by hand."""
    approved(stage, approver)
    payload = {"inputs": {"action": action, "why": "It's $(odd); `x`"}}
    options = ("--input", f"action={action}", "--input", f"why={payload['inputs']['why']}")
    return stage.run("release", "workflow_dispatch", payload, "eve", *options)


def production(stage: Stage) -> Run:
    return stage.run("production", "schedule", {}, "ann")


def pass_staging(stage: Stage) -> None:
    """Leave what a green push to main leaves: a wheel, its attestation, a run; without the loop."""
    done = staging(stage, "push", "--job", "build")
    assert done.jobs == {"build": "success"}, done.output
    wheel = wheel_of(stage, done.id)
    record = stage.folder / "attestations" / hashlib.sha256(wheel.read_bytes()).hexdigest()
    record.write_text(stage.git("rev-parse", "HEAD") + "\n", encoding="utf-8")
    stage.branch("release", "origin/main")


def wheel_of(stage: Stage, run: int) -> Path:
    (wheel,) = (stage.folder / "artifacts" / str(run) / "wheel").iterdir()
    return wheel


def test_what_staging_has_not_tested_is_not_released(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    stage.commit("release", "Past staging")
    done = release(stage)
    assert done.jobs == {"candidate": "failure"}
    assert "has not passed staging" in done.output
    assert "| wheel | ❌ failure | only a commit that staging has passed is released" in done.output
    assert champion(stage) is None


def test_production_without_a_champion_raises_an_alert(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    done = production(stage)
    assert done.jobs == {"score": "failure", "alert": "success"}, done.output
    assert "| predict | ❌ failure | without a champion nothing is scored" in done.output
    assert stage.github.issues[-1]["title"] == "Production fails"
    assert stage.github.issues[-1]["state"] == "open"


def test_a_release_trains_and_is_promoted_behind_an_approval(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    done = release(stage)
    assert done.jobs == {"candidate": "success", "promote": "success"}, done.output
    assert champion(stage) == "1"


def test_production_scores_and_the_alert_ends(stage: Stage) -> None:
    done = production(stage)
    assert done.jobs == {"score": "success", "alert": "success"}, done.output
    assert "version 1 scored" in done.output
    assert stage.github.issues[-1]["state"] == "closed"


def test_a_version_that_does_not_comply_leaves_the_champion(stage: Stage) -> None:
    # given later data, and a demand on production's versions that none can meet
    stage.branch("main", "origin/main")
    good = stage.git("rev-parse", "HEAD")
    data_end(stage, "2013, 2, 22")
    with (stage.work / "conf" / "prod.yml").open("a", encoding="utf-8") as file:
        file.write("  min_gain: 5\n")
    stage.commit("main", "Demand the impossible")
    pass_staging(stage)
    # when
    done = release(stage)
    # then
    assert done.jobs == {"candidate": "failure"}, done.output
    assert "better_than_baseline" in done.output
    assert "| check | ❌ failure | the log names the checks that the version failed" in done.output
    assert "| compare | ⏭️ skipped |  |" in done.output
    assert champion(stage) == "1"
    stage.branch("main", good)


def test_a_promotion_that_the_one_who_asked_approves_leaves_the_champion(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    data_end(stage, "2013, 3, 1")
    stage.commit("main", "Data until 2013, 3, 1")
    pass_staging(stage)
    done = release(stage, "ann")
    assert done.jobs == {"candidate": "success", "promote": "failure"}, done.output
    assert "ann asked for this promotion and may not approve it" in done.output
    assert champion(stage) == "1"


def announce(stage: Stage, version: str) -> list[dict[str, Any]]:
    """Deliver to the receiver what the registry would; returns the events that GitHub got by it."""
    runs = [
        run["id"] for run in stage.github.runs if run["head_sha"] == stage.git("rev-parse", "HEAD")
    ]
    place = stage.folder / "receiver"
    if not place.exists():
        (stage.checkout("receiver", "release") / "dist").mkdir()
        shutil.copy(wheel_of(stage, runs[-1]), place / "dist")
    stage.github.events.clear()
    secret = "shared with the registry"  # noqa: S105 of this stage
    environment = {"WEBHOOK_SECRET": secret, "GITHUB_TOKEN": TOKEN, **stage.address}
    command = (
        "webhook",
        "--env",
        "prod",
        "--port",
        str(stage.free_port),
        "--start",
        "python3 -m ci.dispatch",
    )
    with background(("python3", "bootstrap.py", "cli", *command), place, environment):
        event = {
            "entity": "model_version",
            "action": "created",
            "data": {"name": "flight-delays", "version": version},
        }
        body, moment = json.dumps(event), str(int(time.time()))
        for key, status in (("a guess", 401), (secret, 202)):
            signed = hmac.digest(key.encode(), f"{version}.{moment}.{body}".encode(), "sha256")
            headers = {
                "X-MLflow-Delivery-Id": version,
                "X-MLflow-Timestamp": moment,
                "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
            }
            assert post(f"http://127.0.0.1:{stage.free_port}/", body, headers) == status
        assert wait_for(lambda: stage.github.events)
    assert stage.github.complaints == []
    return stage.github.events


def announced(stage: Stage, version: str) -> Run:
    """What the registry's webhook starts."""
    (event,) = announce(stage, version)
    stage.branch("main", "origin/main")
    done = stage.run("release", "repository_dispatch", event, "robot")
    stage.branch("release", "origin/release")
    return done


def test_a_version_that_the_registry_announces_is_not_asked_for_twice(stage: Stage) -> None:
    done = announced(stage, "3")
    assert done.jobs == {"announced": "success"}, done.output
    assert "Version 3 waits for `approve` or `reject`" in done.output
    assert champion(stage) == "1"


def test_a_version_that_was_refused_is_refused_when_it_is_announced(stage: Stage) -> None:
    done = announced(stage, "2")
    assert done.jobs == {"announced": "failure"}, done.output
    assert "Version 2 is archived" in done.output
    assert champion(stage) == "1"


@pytest.mark.parametrize(
    ("approver", "reason"), [("ann", "may not approve it"), (None, "Nobody approved this run")]
)
def test_by_hand_nobody_promotes_what_was_not_approved_by_another(
    stage: Stage, approver: str | None, reason: str
) -> None:
    done = decide(stage, "approve", approver)
    assert done.jobs == {"promote": "failure"}, done.output
    assert reason in done.output
    assert champion(stage) == "1"


def test_by_hand_what_waits_is_promoted_behind_an_approval(stage: Stage) -> None:
    done = decide(stage, "approve", "bob")
    assert done.jobs == {"promote": "success"}, done.output
    assert champion(stage) == "3"


def test_a_wheel_that_was_exchanged_is_refused(stage: Stage) -> None:
    (run,) = [it for it in stage.github.runs if it["head_sha"] == stage.git("rev-parse", "HEAD")][
        -1:
    ]
    wheel = wheel_of(stage, run["id"])
    content = wheel.read_bytes()
    wheel.write_bytes(content + b"x")
    done = decide(stage, "rollback")
    wheel.write_bytes(content)
    assert done.jobs == {"decide": "failure"}
    assert "no attestation of" in done.output
    assert champion(stage) == "3"


def test_a_rollback_by_hand_brings_the_champion_back(stage: Stage) -> None:
    done = decide(stage, "rollback")
    assert done.jobs == {"decide": "success"}, done.output
    assert champion(stage) == "1"


def test_production_monitors_and_trains_again_when_it_is_time(stage: Stage) -> None:
    # given a week more of data, and a schedule
    stage.branch("main", "origin/main")
    data_end(stage, "2013, 3, 8")
    with (stage.work / "conf" / "prod.yml").open("a", encoding="utf-8") as file:
        file.write("retraining:\n  every_days: 5\n")
    stage.commit("main", "Train again every five days")
    pass_staging(stage)
    # when
    done = production(stage)
    # then production was measured, and a new version waits
    assert done.jobs == {"score": "success", "alert": "success"}, done.output
    assert "windows measured" in done.output
    assert "Version 4 waits for `approve` or `reject`" in done.output
    assert champion(stage) == "1"


def test_by_hand_what_waits_is_rejected(stage: Stage) -> None:
    done = decide(stage, "reject")
    assert done.jobs == {"decide": "success"}, done.output
    assert "Version 4 is archived" in done.output
    assert champion(stage) == "1"


def test_nothing_is_left_to_reject(stage: Stage) -> None:
    done = decide(stage, "reject")
    assert done.jobs == {"decide": "failure"}
    assert "No request waits for a decision" in done.output
    assert "| decide | ❌ failure | the log names the reason" in done.output
    assert champion(stage) == "1"
