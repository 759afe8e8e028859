"""Staging, release and production, executed: green, and red for each reason that they have.

They tell one story, in this order. What takes long, a training, is done once for what it shows.
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
from stage import (
    CREATED,
    RELEASES,
    REPOSITORY,
    TOKEN,
    Run,
    Stage,
    background,
    data_end,
    free_port,
    post,
    wait_for,
)

pytestmark = pytest.mark.act

COMMANDS = "ci/commands.toml"
FIRST, SECOND, THIRD, FOURTH = RELEASES


# Staging


def staging(stage: Stage, event: str, ref: str = "refs/heads/main", *options: str) -> Run:
    """What a push to main or of a tag, or the night, runs."""
    payload = {"ref": ref, "repository": {"default_branch": "main"}}
    return stage.run("staging", event, payload, "ann", *options, inline=event == "schedule")


def test_a_red_night_opens_an_issue_that_a_green_one_closes(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    good = stage.git("rev-parse", "HEAD")
    whole = (stage.work / COMMANDS).read_text(encoding="utf-8")
    head, _, rest = whole.partition("[staging]\nrun = [")
    # when two nights are red and one is green
    for command, result in (("false", "failure"), ("false", "failure"), ("true", "success")):
        rest_of_task = rest.partition("]\n")[2]
        task = f'{head}[staging]\nrun = ["{command}"]\n{rest_of_task}'
        stage.commit("main", "A night", **{COMMANDS: task})
        done = staging(stage, "schedule")
        assert done.jobs == {"build": "success", "loop": result, "alert": "success"}, done.output
    # then one issue was opened, commented and closed, and no release was made
    (issue,) = stage.github.issues
    assert (issue["title"], issue["state"]) == ("Staging fails at night", "closed")
    assert [it["body"][:9] for it in stage.github.comments[issue["number"]]] == [
        "Still red",
        "Green aga",
    ]
    assert (stage.github.releases, stage.github.statuses) == ({}, {})
    stage.branch("main", good)


def test_a_tag_whose_loop_is_red_makes_no_release(stage: Stage) -> None:
    stage.branch("broken", "origin/main")
    stage.edit("conf/staging.yml", "min_rows: 200", "min_rows: none")
    stage.commit("broken", "A slip")
    stage.tag("v0.9.0")
    done = staging(stage, "push", "refs/tags/v0.9.0")
    assert done.jobs == {"build": "failure"}, done.output
    assert "CHANGELOG.md has no entry [0.9.0]" in done.output
    stage.tag(THIRD)
    done = staging(stage, "push", f"refs/tags/{THIRD}")
    assert done.jobs == {"build": "success", "loop": "failure"}, done.output
    assert "training.min_rows" in done.output
    assert re.search(r"cli ingest --env staging \| ❌ failure \| the log names", done.output)
    assert "cli deploy --env staging --version $version --who $WHO | ⏭️ skipped" in done.output
    stage.git("push", "--quiet", "--delete", "origin", THIRD, "v0.9.0")
    stage.git("tag", "--delete", THIRD, "v0.9.0")
    assert (stage.github.releases, stage.github.statuses) == ({}, {})


def test_a_tag_that_passes_is_a_release_with_all_that_belongs_to_it(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    stage.tag(FIRST)
    done = staging(stage, "push", f"refs/tags/{FIRST}")
    assert done.jobs == dict.fromkeys(("build", "loop", "release"), "success"), done.output
    place = stage.folder / "releases" / FIRST
    wheel = "flight_delays-1.0.0-py3-none-any.whl"
    assert {path.name for path in place.iterdir()} == {
        wheel,
        "sbom.cdx.json",
        "model_card.md",
        "run.txt",
    }
    assert stage.github.releases[FIRST]["body"].strip() == "What v1.0.0 brings."
    bill = json.loads((place / "sbom.cdx.json").read_text(encoding="utf-8"))
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", "1.0.0")
    assert {"polars", "lightgbm"} <= {part["name"] for part in bill["components"]}
    digest = hashlib.sha256((place / wheel).read_bytes()).hexdigest()
    (status,) = stage.github.statuses[stage.git("rev-parse", "HEAD")]
    assert status["description"] == f"sha256:{digest}"


# Release and production


def variables(stage: Stage, **more: str) -> list[str]:
    """Repository variables: production is switched on, on the disk of a runner."""
    values = {"PRODUCTION": "on", "PRODUCTION_DATA": str(stage.folder / "disk"), **more}
    return [part for name, value in values.items() for part in ("--var", f"{name}={value}")]


def champion(stage: Stage) -> str | None:
    store = stage.folder / "disk" / "prod" / "mlflow.db"
    if not store.exists():
        return None
    with sqlite3.connect(store) as connection:
        found = connection.execute(
            "SELECT version FROM registered_model_aliases WHERE alias = 'champion'"
        ).fetchone()
    return None if found is None else str(found[0])


def release(stage: Stage, **given: str) -> Run:
    """What a push to release runs, by ann."""
    payload = {"ref": "refs/heads/release"}
    return stage.run("release", "push", payload, "ann", *variables(stage, **given))


def decide(
    stage: Stage,
    action: str,
    who: str = "bob",
    version: str = "",
    ref: str = "release",
    **given: str,
) -> Run:
    """What is started by hand."""
    inputs = {"action": action, "version": version, "why": "It's $(odd); `x`"}
    payload = {"ref": f"refs/heads/{ref}", "inputs": inputs}
    options = [part for item in inputs.items() for part in ("--input", "=".join(item))]
    # act knows no other actor than the one that triggers.
    return stage.run(
        "release", "workflow_dispatch", payload, who, *options, *variables(stage, **given)
    )


def production(stage: Stage, ref: str = "release", **given: str) -> Run:
    payload = {"ref": f"refs/heads/{ref}", "inputs": {"as_of": ""}}
    options = variables(stage, **given)
    return stage.run("production", "workflow_dispatch", payload, "ann", *options, inline=True)


def pass_staging(stage: Stage, tag: str) -> None:
    """Leave what a green tag leaves: a release and its digest. The loop itself ran before."""
    stage.tag(tag)
    done = staging(stage, "push", f"refs/tags/{tag}", "--job", "build")
    assert done.jobs == {"build": "success"}, done.output
    place = stage.folder / "releases" / tag
    place.mkdir()
    (wheel,) = (stage.folder / "artifacts" / str(done.id) / "wheel").glob("*.whl")
    shutil.copy(wheel, place)
    stage.github.release({"tag_name": tag, "body": ""})
    commit = stage.git("rev-parse", "HEAD")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    text = f"sha256:{digest}"
    stage.github.record(commit, {"state": "success", "context": "wheel", "description": text})
    stage.branch("release", "HEAD")


def wheel_of(stage: Stage, tag: str) -> Path:
    (wheel,) = (stage.folder / "releases" / tag).glob("*.whl")
    return wheel


def test_day_one_is_a_demo_that_says_what_is_missing(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    payload = {"ref": "refs/heads/release"}
    done = stage.run("release", "push", payload, "ann")
    assert done.jobs == {"demo": "success"}, done.output
    assert "version 1 scored" in done.output
    assert "| PRODUCTION | missing |" in done.output
    assert "| PRODUCTION_DATA | missing |" in done.output
    # and no night starts anything, or fails
    night = stage.run("production", "schedule", {"repository": {"default_branch": "main"}}, "ann")
    assert night.jobs == {}
    assert stage.github.started == []


def test_a_night_only_starts_the_workflow_of_the_branch_release(stage: Stage) -> None:
    payload = {"repository": {"default_branch": "main"}}
    done = stage.run("production", "schedule", payload, "ann", *variables(stage))
    assert done.jobs == {"start": "success"}, done.output
    (started,) = stage.github.started
    assert started == {"workflow": "production.yml", "ref": "release", "inputs": {}}


def test_main_does_nothing_to_production(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    done = decide(stage, "init", ref="main")
    assert done.jobs == {"decide": "failure"}
    assert "Run this on the branch release, not on main" in done.output
    assert not (stage.folder / "disk").exists()


def test_what_is_no_release_is_not_released(stage: Stage) -> None:
    stage.branch("release", "origin/main")
    stage.commit("release", "Past staging")
    done = release(stage)
    assert done.jobs == {"candidate": "failure"}
    assert "is no release. Tag it" in done.output
    assert champion(stage) is None


def test_storage_that_nobody_named_is_refused_and_raises_an_alert(stage: Stage) -> None:
    stage.branch("release", FIRST)
    done = production(stage)
    assert done.jobs == {"daily": "failure", "alert": "success"}, done.output
    assert "are not those of flight-delays-prod: they carry no name" in done.output
    assert not (stage.folder / "disk" / "prod" / "mlflow.db").exists()
    assert stage.github.issues[-1]["title"] == "Production fails"
    assert stage.github.issues[-1]["state"] == "open"


def test_a_release_trains_and_waits_for_a_person(stage: Stage) -> None:
    stage.branch("release", FIRST)
    done = decide(stage, "init")
    assert done.jobs == {"decide": "success"}, done.output
    done = release(stage)
    assert done.jobs == {"candidate": "success"}, done.output
    assert "Version 1 waits for `approve` or `reject`" in done.output
    assert champion(stage) is None


@pytest.mark.parametrize(
    ("who", "version", "reason"),
    [
        ("ann", "1", "ann asked for this promotion and may not approve it"),
        ("bob", "2", "Version 1 waits for a decision, not version 2"),
        ("bob", "", "VERSION is not set, or empty"),
    ],
)
def test_nobody_promotes_another_version_or_what_he_asked_for(
    stage: Stage, who: str, version: str, reason: str
) -> None:
    done = decide(stage, "approve", who, version)
    assert done.jobs == {"decide": "failure"}, done.output
    assert reason in done.output
    assert champion(stage) is None


def test_by_hand_another_person_promotes_what_waits(stage: Stage) -> None:
    done = decide(stage, "approve", "bob", "1")
    assert done.jobs == {"decide": "success", "rollout": "success"}, done.output
    assert champion(stage) == "1"


def test_another_machine_without_the_data_is_refused(stage: Stage) -> None:
    done = production(stage, PRODUCTION_DATA=str(stage.folder / "another disk"))
    assert done.jobs["daily"] == "failure"
    assert "they carry no name" in done.output
    assert not (stage.folder / "another disk" / "prod" / "mlflow.db").exists()


def test_a_version_that_does_not_comply_leaves_the_champion(stage: Stage) -> None:
    # given later data, and a demand on production's versions that none can meet
    stage.branch("main", "origin/main")
    good = stage.git("rev-parse", "HEAD")
    data_end(stage, "2013, 2, 22")
    with (stage.work / "conf" / "prod.yml").open("a", encoding="utf-8") as file:
        file.write("  min_gain: 5\n")
    stage.commit("main", "Demand the impossible")
    pass_staging(stage, SECOND)
    # when
    done = release(stage, APPROVAL="environment")
    # then
    assert done.jobs == {"candidate": "failure"}, done.output
    assert "better_than_baseline" in done.output
    assert "❌ failure | the log names the gate; the report shows the numbers" in done.output
    assert champion(stage) == "1"
    stage.branch("main", good)


def approved(stage: Stage, *reviews: tuple[str, str, str]) -> None:
    """Let people have answered: who, for which environment, approved or rejected."""
    stage.github.approvals = [
        {"state": state, "user": {"login": who}, "environments": [{"name": environment}]}
        for who, environment, state in reviews
    ]


def test_where_environments_have_reviewers_their_approval_promotes(stage: Stage) -> None:
    stage.branch("main", "origin/main")
    data_end(stage, "2013, 3, 1")
    stage.commit("main", "Data until 2013, 3, 1")
    pass_staging(stage, THIRD)
    # given nobody's approval, or one for another environment
    approved(stage, ("eve", "staging", "approved"), ("bob", "promotion", "rejected"))
    done = release(stage, APPROVAL="environment")
    assert done.jobs == {"candidate": "success", "approval": "failure"}, done.output
    assert "Nobody approved this run" in done.output
    assert champion(stage) == "1"
    # when it is approved, by the one who asked and then by another
    approved(stage, ("ann", "promotion", "approved"))
    asked = decide(stage, "approve", "ann", "3", APPROVAL="environment")
    assert asked.jobs == {"approval": "success", "promote": "failure"}, asked.output
    assert champion(stage) == "1"
    approved(stage, ("ann", "staging", "approved"), ("bob", "promotion", "approved"))
    done = decide(stage, "approve", "ann", "3", APPROVAL="environment")
    assert done.jobs == dict.fromkeys(("approval", "promote", "rollout"), "success"), done.output
    assert champion(stage) == "3"


def test_a_wheel_that_was_exchanged_is_refused(stage: Stage) -> None:
    wheel = wheel_of(stage, THIRD)
    content = wheel.read_bytes()
    wheel.write_bytes(content + b"x")
    # Whoever exchanges it can add a digest, and take none back.
    other = hashlib.sha256(wheel.read_bytes()).hexdigest()
    status = {"state": "success", "context": "wheel", "description": f"sha256:{other}"}
    stage.github.record(stage.git("rev-parse", "HEAD"), status)
    done = decide(stage, "rollback")
    wheel.write_bytes(content)
    assert done.jobs == {"decide": "failure"}
    assert "did NOT match" in done.output
    assert champion(stage) == "3"


def test_where_attestations_are_on_a_wheel_without_one_is_refused(stage: Stage) -> None:
    wheel, place = wheel_of(stage, THIRD), stage.folder / "attestations"
    place.mkdir(exist_ok=True)
    record = place / hashlib.sha256(wheel.read_bytes()).hexdigest()
    known = {
        "repository": REPOSITORY,
        "workflow": f"{REPOSITORY}/.github/workflows/staging.yml",
        "commit": stage.git("rev-parse", "HEAD"),
        "ref": f"refs/tags/{THIRD}",
    }
    for differing in ({}, {"ref": "refs/heads/main"}):
        if differing:
            record.write_text(json.dumps(known | differing), encoding="utf-8")
        done = decide(stage, "rollback", ATTESTATIONS="on")
        assert done.jobs == {"decide": "failure"}, done.output
        assert champion(stage) == "3"
    record.write_text(json.dumps(known), encoding="utf-8")
    done = decide(stage, "rollback", ATTESTATIONS="on")
    assert done.jobs == {"decide": "success"}, done.output
    assert champion(stage) == "1"


def announce(stage: Stage, version: str) -> list[dict[str, Any]]:
    """Deliver to the receiver what the registry would; returns what was started by it."""
    place = stage.folder / "receiver"
    (stage.checkout("receiver", "release") / "dist").mkdir()
    shutil.copy(wheel_of(stage, THIRD), place / "dist")
    stage.github.started.clear()
    secret = "shared with the registry"  # noqa: S105 of this stage
    paths = os.pathsep.join(map(str, (stage.folder / "bin", stage.act.parent, os.environ["PATH"])))
    environment = {
        "WEBHOOK_SECRET": secret,
        "GH_TOKEN": TOKEN,
        "GH_REPO": REPOSITORY,
        "DATA_FOLDER": str(stage.folder / "disk"),
        "STAGE": str(stage.folder),
        "PATH": paths,
        **stage.address,
    }
    start = "gh workflow run release.yml --ref release --field action=deploy"
    port = free_port()
    command = ("webhook", "--env", "prod", "--port", str(port), "--start", start)
    with background(("python3", "bootstrap.py", "cli", *command), place, environment):
        event = {
            "entity": "model_version",
            "action": "created",
            "data": {"name": "flight-delays-prod", "version": version},
        }
        body, moment = json.dumps(event), str(int(time.time()))
        for key, status in (("a guess", 401), (secret, 202)):
            signed = hmac.digest(key.encode(), f"{version}.{moment}.{body}".encode(), "sha256")
            headers = {
                "X-MLflow-Delivery-Id": version,
                "X-MLflow-Timestamp": moment,
                "X-MLflow-Signature": f"v1,{base64.b64encode(signed).decode()}",
            }
            assert post(f"http://127.0.0.1:{port}/", body, headers) == status
        assert wait_for(lambda: stage.github.started)
    assert stage.github.complaints == []
    return stage.github.started


def test_what_the_registry_announces_is_looked_for_with_the_code_of_release(stage: Stage) -> None:
    (started,) = announce(stage, "3")
    assert started == {"workflow": "release.yml", "ref": "release", "inputs": {"action": "deploy"}}
    done = decide(stage, started["inputs"]["action"], "robot")
    assert done.jobs == {"decide": "success"}, done.output
    assert champion(stage) == "1"


def test_production_monitors_and_trains_again_when_it_is_time(stage: Stage) -> None:
    # given a week more of data, and a schedule
    stage.branch("main", "origin/main")
    data_end(stage, "2013, 3, 8")
    with (stage.work / "conf" / "prod.yml").open("a", encoding="utf-8") as file:
        file.write("retraining:\n  every_days: 5\n")
    stage.commit("main", "Train again every five days")
    pass_staging(stage, FOURTH)
    # when
    done = production(stage)
    # then production scored and was measured, as of the start of the run, and a new version waits
    assert done.jobs == {"daily": "success", "alert": "success"}, done.output
    assert f"as-of={CREATED}" in done.output
    assert "version 1 scored" in done.output
    assert stage.github.issues[-1]["state"] == "closed"
    assert "windows measured" in done.output
    assert "Version 4 waits for `approve` or `reject`" in done.output
    assert champion(stage) == "1"
    # when it is rejected, nothing is left to reject
    done = decide(stage, "reject", version="4")
    assert done.jobs == {"decide": "success"}, done.output
    assert "Version 4 is archived" in done.output
    done = decide(stage, "reject", version="4")
    assert done.jobs == {"decide": "failure"}
    assert "No request waits for a decision" in done.output
    assert champion(stage) == "1"
