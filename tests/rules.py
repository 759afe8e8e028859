"""Rules that hold for a project's workflows, each a function that asserts one thing of them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

STRICT = "bash -euo pipefail {0}"
NOT_CANCELLED = "${{ !cancelled() }}"
PINNED = re.compile(
    r"\s+(- )?uses: (?P<action>[\w.-]+/[\w./-]+)@(?P<commit>[0-9a-f]{40}) "
    r"# (?P<version>v\d+\.\d+\.\d+)"
)
# Of a source of the template, the lines of a choice that come after the first ones.
OTHERWISE = re.compile(r"^\{%- else -?%\}\n.*?(?=^\{%)", re.MULTILINE | re.DOTALL)
# The well-known actions that are used, each at one commit everywhere.
ACTIONS = {
    "actions/attest-build-provenance",
    "actions/cache",
    "actions/checkout",
    "actions/download-artifact",
    "actions/setup-python",
    "actions/upload-artifact",
}
CHECKED_OUT = {"contents": "read"}
IN_ENVIRONMENT = {
    "actions": "read",
    "attestations": "read",
    "contents": "read",
    "id-token": "write",
    "statuses": "read",
}
KEEPS_ISSUE = {"contents": "read", "issues": "write"}
PERMISSIONS: dict[str, dict[str, str]] = {
    "pull-request/lint": CHECKED_OUT,
    "pull-request/types": CHECKED_OUT,
    "pull-request/unit": CHECKED_OUT,
    "pull-request/integration": CHECKED_OUT,
    "pull-request/model": {"contents": "read", "id-token": "write"},
    "pull-request/ready": {"contents": "read", "pull-requests": "read"},
    "pull-request/comment": {"pull-requests": "write"},
    "environment/task": IN_ENVIRONMENT,
    "staging/build": CHECKED_OUT,
    "staging/loop": IN_ENVIRONMENT,
    "staging/attest": {"attestations": "write", "id-token": "write"},
    "staging/release": {"contents": "write", "statuses": "write"},
    "staging/cache": CHECKED_OUT,
    "staging/alert": KEEPS_ISSUE,
    "release/demo": IN_ENVIRONMENT,
    "release/candidate": IN_ENVIRONMENT,
    "release/approval": {"actions": "read"},
    "release/promote": IN_ENVIRONMENT,
    "release/decide": IN_ENVIRONMENT,
    "release/rollout": IN_ENVIRONMENT,
    "production/start": {"actions": "write"},
    "production/demo": IN_ENVIRONMENT,
    "production/daily": IN_ENVIRONMENT,
    "production/alert": KEEPS_ISSUE,
    "locks/lock": CHECKED_OUT,
    "locks/propose": {"actions": "write", "contents": "write", "pull-requests": "write"},
}
# What a job waits for.
NEEDS: dict[str, Any] = {
    "pull-request/integration": ["lint", "types", "unit"],
    "pull-request/model": "integration",
    "pull-request/ready": ["lint", "types", "unit", "integration", "model"],
    "pull-request/comment": "ready",
    "staging/loop": "build",
    "staging/attest": "loop",
    "staging/release": ["loop", "attest"],
    "staging/alert": ["build", "loop"],
    "release/approval": "candidate",
    "release/promote": ["candidate", "approval"],
    "release/rollout": ["promote", "decide"],
    "production/alert": ["start", "daily"],
    "locks/propose": "lock",
}
_ON = "vars.PRODUCTION == 'on'"
_BY_HAND = "github.event_name == 'workflow_dispatch'"
# Under which condition it runs.
CONDITIONS = {
    "pull-request/ready": "${{ always() }}",  # what is skipped counts as passed
    "pull-request/comment": (
        "${{ !cancelled() && github.event_name == 'pull_request' && "
        "github.event.pull_request.head.repo.full_name == github.repository }}"
    ),
    "staging/attest": "github.ref_type == 'tag' && vars.ATTESTATIONS == 'on'",
    "staging/release": (
        "${{ !cancelled() && github.ref_type == 'tag' && needs.loop.result == 'success' && "
        "needs.attest.result != 'failure' }}"
    ),
    "staging/cache": "github.event_name == 'push' && github.ref_type == 'branch'",
    "staging/alert": "${{ !cancelled() && github.event_name == 'schedule' }}",
    "release/demo": "vars.PRODUCTION != 'on'",
    "release/candidate": f"{_ON} && github.event_name == 'push'",
    "release/approval": (
        f"${{{{ !cancelled() && {_ON} && vars.APPROVAL == 'environment' && "
        "(needs.candidate.outputs.waiting != '' || inputs.action == 'approve') }}"
    ),
    "release/promote": "${{ !cancelled() && needs.approval.result == 'success' }}",
    "release/decide": (
        f"{_ON} && {_BY_HAND} && (inputs.action != 'approve' || vars.APPROVAL != 'environment')"
    ),
    "release/rollout": (
        "${{ !cancelled() && (needs.promote.result == 'success' || "
        "needs.decide.result == 'success' && inputs.action == 'approve') }}"
    ),
    "production/start": f"github.event_name == 'schedule' && {_ON}",
    "production/demo": f"{_BY_HAND} && vars.PRODUCTION != 'on'",
    "production/daily": f"{_BY_HAND} && {_ON}",
    "production/alert": (
        f"${{{{ !cancelled() && {_ON} && "
        "(needs.daily.result != 'skipped' || needs.start.result == 'failure') }}"
    ),
}
_OF_PRODUCTION = {
    "environment": "production",
    "wheel": "release",
    "branch": "release",
    "runner": "${{ vars.PRODUCTION_RUNNER }}",
    "data": "${{ vars.PRODUCTION_DATA }}",
}
# What is asked of the one workflow that touches tables and models.
CALLS: dict[str, dict[str, str]] = {
    "staging/loop": {
        "environment": "staging",
        "task": "staging",
        "wheel": "run",
        "runner": "${{ vars.STAGING_RUNNER }}",
        "data": "${{ vars.STAGING_DATA }}",
    },
    "release/demo": {"environment": "demo", "task": "demo"},
    "release/candidate": {**_OF_PRODUCTION, "task": "candidate"},
    "release/promote": {
        **_OF_PRODUCTION,
        "task": "approve",
        "lane": "decisions",
        "version": "${{ needs.candidate.outputs.waiting || inputs.version }}",
        "who": "${{ needs.approval.outputs.who }}",
        "why": "${{ inputs.why || format('Run {0} was approved', github.run_id) }}",
    },
    "release/decide": {
        **_OF_PRODUCTION,
        "task": "${{ inputs.action }}",
        "lane": "${{ inputs.action == 'deploy' && 'tables' || 'decisions' }}",
        "version": "${{ inputs.version }}",
        "who": "${{ github.triggering_actor }}",
        "why": "${{ inputs.why }}",
    },
    "release/rollout": {**_OF_PRODUCTION, "task": "rollout", "lane": "decisions"},
    "production/demo": {"environment": "demo", "task": "demo"},
    "production/daily": {
        **_OF_PRODUCTION,
        "task": "daily",
        "as_of": "${{ inputs.as_of }}",
    },
}
# What runs at a time, and what waits: nothing that waits is lost, but for what is newer.
GROUPS: dict[str, dict[str, Any]] = {
    "pull-request": {
        "group": "pull-request-${{ github.event.pull_request.number || github.ref }}",
        "cancel-in-progress": True,
    },
    "staging": {"group": "staging", "cancel-in-progress": False, "queue": "max"},
    "release": {
        "group": "release-${{ github.event_name }}-${{ inputs.action }}",
        "cancel-in-progress": False,
        "queue": "max",
    },
    "production": {
        "group": "production-${{ github.event_name }}",
        "cancel-in-progress": False,
        "queue": "max",
    },
    "locks": {"group": "locks", "cancel-in-progress": False},
    "environment/task": {
        "group": "${{ inputs.environment }}-${{ inputs.lane }}",
        "cancel-in-progress": False,
        "queue": "max",
    },
}
TRIGGERS: dict[str, Any] = {
    "pull-request": {
        "pull_request": {"branches": ["main"]},
        "merge_group": None,
        "workflow_dispatch": None,
    },
    "staging": {"push": {"branches": ["main"], "tags": ["v*"]}, "schedule": 1},
    "release": {"push": {"branches": ["release"]}, "workflow_dispatch": ...},
    "production": {"schedule": 1, "workflow_dispatch": ...},
    "locks": {"schedule": 1, "workflow_dispatch": None},
    "environment": {"workflow_call": ...},
}
VERBS = {
    "lint": "lint workflows",
    "types": "types",
    "unit": "unit",
    "integration": "problem integration gates",
    "score": "ci:model",
    "champion": "ci:model",
    "compare": "ci:model",
    "install": "list",
    "build": "build",
    "init": "init",
    "staging": "ingest prepare features train deploy predict",
    "candidate": "ingest prepare features train deploy",
    "daily": "ingest prepare features predict monitor retrain deploy dashboard",
    "deploy": "deploy",
    "approve": "approve",
    "rollout": "",
    "reject": "reject",
    "rollback": "rollback",
    "demo": "build init ingest prepare features train deploy approve predict monitor dashboard",
}


@dataclass(frozen=True)
class Rendered:
    """A project's workflows, actions and commands."""

    project: Path

    @property
    def github(self) -> Path:
        """Its `.github`."""
        return self.project / ".github"

    @cached_property
    def workflows(self) -> dict[str, dict[Any, Any]]:
        """Contents by name."""
        paths = sorted((self.github / "workflows").glob("*.yml"))
        return {path.stem: load(path) for path in paths}

    @cached_property
    def jobs(self) -> dict[str, dict[str, Any]]:
        """Contents by workflow and job."""
        return {
            f"{name}/{job}": content
            for name, workflow in self.workflows.items()
            for job, content in workflow["jobs"].items()
        }

    @cached_property
    def actions(self) -> dict[str, dict[str, Any]]:
        """Metadata of the project's own actions."""
        paths = sorted((self.github / "actions").glob("*/action.yml"))
        return {path.parent.name: load(path) for path in paths}

    @cached_property
    def commands(self) -> dict[str, Any]:
        """The contract; of the template's own sources, with the first lines of every choice."""
        text = (self.project / "ci" / "commands.toml").read_text(encoding="utf-8")
        text = OTHERWISE.sub("", text)
        return tomllib.loads(re.sub(r"^\{%.*\n", "", text, flags=re.MULTILINE))

    def steps(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All steps, with where they are."""
        for place, job in self.jobs.items():
            for step in job.get("steps", ()):
                yield place, step
        for name, action in self.actions.items():
            for step in action["runs"]["steps"]:
                yield f"actions {name}", step

    def using(self, action: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Steps that use an action."""
        for place, step in self.steps():
            if step.get("uses", "").partition("@")[0].endswith(action):
                yield place, step


def load(path: Path) -> Any:
    """Content of a YAML file; the loader in C, since many are read."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def actions_are_pinned(it: Rendered) -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in it.github.rglob("*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s+(- )?uses:", line) and "uses: ./" not in line:
                found = PINNED.fullmatch(line)
                assert found, f"{path.name}: {line}"
                pins.setdefault(found["action"], set()).add((found["commit"], found["version"]))
    assert set(pins) <= ACTIONS
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def jobs_may_do_what_they_need_and_no_more(it: Rendered) -> None:
    assert all(workflow["permissions"] == {} for workflow in it.workflows.values())
    assert {place: job.get("permissions") for place, job in it.jobs.items()} == PERMISSIONS


def jobs_wait_for_what_they_build_on(it: Rendered) -> None:
    assert {place: job["needs"] for place, job in it.jobs.items() if "needs" in job} == NEEDS


def jobs_run_under_their_condition_only(it: Rendered) -> None:
    assert {place: job["if"] for place, job in it.jobs.items() if "if" in job} == CONDITIONS


def what_touches_an_environment_goes_through_one_workflow(it: Rendered) -> None:
    calls = {place: job for place, job in it.jobs.items() if "uses" in job}
    assert {place: job["with"] for place, job in calls.items()} == CALLS
    for place, job in calls.items():
        assert job["uses"] == "./.github/workflows/environment.yml", place
        assert job["secrets"] == "inherit", place
    named = {place: job["environment"] for place, job in it.jobs.items() if "environment" in job}
    assert named == {
        "environment/task": "${{ inputs.environment }}",
        "release/approval": "promotion",
    }


def nothing_that_waits_is_lost_or_in_the_way(it: Rendered) -> None:
    groups = {
        place: part["concurrency"]
        for place, part in {**it.workflows, **it.jobs}.items()
        if "concurrency" in part
    }
    assert groups == GROUPS


def workflows_start_when_they_should(it: Rendered) -> None:
    assert set(it.workflows) == set(TRIGGERS)
    for name, expected in TRIGGERS.items():
        found = it.workflows[name][True]  # YAML 1.1 reads `on` as a truth value
        assert set(found) == set(expected), name
        for event, details in expected.items():
            if isinstance(details, int):
                assert len(found[event]) == details, name
            elif details is not ...:
                assert found[event] == details, f"{name}: {event}"
    inputs = it.workflows["release"][True]["workflow_dispatch"]["inputs"]
    assert inputs["action"]["options"] == ["approve", "reject", "rollback", "deploy", "init"]
    assert inputs["action"]["required"] is True


def every_job_ends(it: Rendered) -> None:
    for place, job in it.jobs.items():
        if "uses" not in job:
            assert 0 < job["timeout-minutes"] <= 240, place


def nobody_waits_for_a_runner_that_is_not_there(it: Rendered) -> None:
    for place, job in it.jobs.items():
        if place == "environment/task":
            assert job["runs-on"] == "${{ inputs.runner || 'ubuntu-latest' }}"
        elif "uses" not in job:
            assert job["runs-on"] == "ubuntu-latest", place


def shells_stop_at_the_first_error(it: Rendered) -> None:
    for name, workflow in it.workflows.items():
        assert workflow["defaults"] == {"run": {"shell": STRICT}}, name
    for place, step in it.steps():
        if "run" in step:
            assert step.get("shell", STRICT) == STRICT, place
            assert not place.startswith("actions ") or "shell" in step, place


def no_expression_stands_in_a_shell_line(it: Rendered) -> None:
    assert [place for place, step in it.steps() if "${{" in step.get("run", "")] == []


def values_arrive_as_variables_that_are_used(it: Rendered) -> None:
    for place, step in it.steps():
        for name in step.get("env", {}) if "python3 -m ci" not in step.get("run", "") else ():
            said = str(step["run"])
            assert name in said or name in ("GH_TOKEN", "GH_REPO"), f"{place}: {name}"
        if re.search(r"\bgh (api|issue|release|workflow|attestation)", step.get("run", "")):
            known = {**it.jobs.get(place, {}).get("env", {}), **step.get("env", {})}
            assert "GH_TOKEN" in known, place
            if "gh api" not in step["run"] or "$GH_REPO" in step["run"]:
                assert "GH_REPO" in known, place


def a_checkout_leaves_no_token_and_no_old_file(it: Rendered) -> None:
    for place, step in it.using("actions/checkout"):
        assert step["with"]["persist-credentials"] is False, place
        allowed = {"path", "fetch-depth", "ref"} if place == "pull-request/model" else set()
        assert set(step["with"]) - {"persist-credentials"} <= allowed, place


def the_wheel_of_an_earlier_run_is_forgotten(it: Rendered) -> None:
    first = it.actions["python"]["runs"]["steps"][0]
    assert re.match(r"rm -rf dist\b", first["run"])
    assert "if" not in first


def caches_are_keyed_by_the_locks_and_written_on_main(it: Rendered) -> None:
    for place, step in it.using("actions/cache"):
        assert "hashFiles('requirements/*.txt', " in step["with"]["key"], place
        assert "'head/requirements/*.txt', " in step["with"]["key"], place
        assert "restore-keys" not in step["with"], place
        assert step["if"] == "inputs.cache == 'true'", place
    kept = {
        place
        for place, step in it.using("/actions/python")
        if step.get("with", {}).get("cache") != "false"
    }
    mine = {place for place in it.jobs if place.startswith("pull-request/")}
    assert kept == mine - {"pull-request/ready", "pull-request/comment"} | {"staging/cache"}
    assert it.jobs["staging/cache"]["steps"][-1]["run"] == "python3 -m ci.run install"


def strangers_get_neither_a_secret_nor_a_token_that_writes(it: Rendered) -> None:
    for name, workflow in it.workflows.items():
        assert not {"pull_request_target", "workflow_run"} & set(workflow[True]), name
    for place, job in it.jobs.items():
        if place.startswith("pull-request/"):
            assert "secrets" not in str(job), place
    ((_, login),) = [
        found for found in it.using("actions/login") if found[0].startswith("pull-request")
    ]
    assert login["if"] == "github.event.pull_request.head.repo.fork != true"


def the_environment_is_entered_in_this_order(it: Rendered) -> None:
    steps = it.jobs["environment/task"]["steps"]
    refusal, checkout, python, of_run, of_release, login, moment, task, *rest = steps
    assert refusal["if"] == "inputs.branch != '' && github.ref_name != inputs.branch"
    assert "exit 1" in refusal["run"]
    assert checkout["uses"].startswith("actions/checkout@")
    assert python["uses"] == "./.github/actions/python"
    assert of_run["if"] == "inputs.wheel == 'run'"
    assert of_run["with"] == {"name": "wheel", "path": "dist"}
    assert of_release["if"] == "inputs.wheel == 'release'"
    assert of_release["uses"] == "./.github/actions/wheel"
    assert of_release["with"] == {
        "token": "${{ github.token }}",
        "attested": "${{ vars.ATTESTATIONS }}",
    }
    assert login["uses"] == "./.github/actions/login"
    assert "if" not in login
    assert login["with"] == {
        "environment": "${{ inputs.environment }}",
        "credentials": "${{ secrets.CREDENTIALS }}",
    }
    # A repeated run has the same id and was created once.
    assert "actions/runs/$GITHUB_RUN_ID" in moment["run"]
    assert "--jq .created_at" in moment["run"]
    assert "as-of=${GIVEN:-$started}" in moment["run"]
    assert moment["env"]["GIVEN"] == "${{ inputs.as_of }}"
    assert task["run"] == 'python3 -m ci.run "$TASK"'
    assert "if" not in task
    assert "continue-on-error" not in task
    assert task["env"] == {
        "AS_OF": "${{ steps.moment.outputs.as-of }}",
        "DATA_FOLDER": "${{ inputs.data || format('{0}/.data', github.workspace) }}",
        "TASK": "${{ inputs.task }}",
        "VERSION": "${{ inputs.version }}",
        "WHO": "${{ inputs.who || github.actor }}",
        "WHY": "${{ inputs.why }}",
    }
    reports, missing = rest
    assert (reports["if"], reports["with"]["path"]) == (NOT_CANCELLED, "reports/")
    assert missing["if"] == "${{ !cancelled() && inputs.task == 'demo' }}"
    assert missing["uses"] == "./.github/actions/missing"


def an_approval_is_passed_on_with_its_version_and_its_name(it: Rendered) -> None:
    outputs = it.workflows["environment"][True]["workflow_call"]["outputs"]
    assert outputs["waiting"]["value"] == "${{ jobs.task.outputs.waiting }}"
    waiting = {"waiting": "${{ steps.task.outputs.waiting }}"}
    assert it.jobs["environment/task"]["outputs"] == waiting
    approval = it.jobs["release/approval"]
    assert approval["outputs"] == {"who": "${{ steps.who.outputs.who }}"}
    (step,) = approval["steps"]
    assert "/actions/runs/$GITHUB_RUN_ID/approvals" in step["run"]
    assert 'select(.state == "approved" and any(.environments[]; .name == "promotion"))' in str(
        step["run"]
    )
    assert 'if [ -z "$approvers" ]' in step["run"]
    assert "exit 1" in step["run"]


def a_released_wheel_is_the_one_that_staging_recorded(it: Rendered) -> None:
    release, wheel, provenance = it.actions["wheel"]["runs"]["steps"]
    assert 'select(.commit.sha == env.COMMIT and (.name | startswith("v")))' in release["run"]
    assert 'if [ -z "$tag" ]' in release["run"]
    assert "exit 1" in release["run"]
    assert 'gh release download "$TAG" --dir dist --pattern "*.whl"' in wheel["run"]
    mine = 'select(.context == "wheel" and .creator.login == "github-actions[bot]")'
    assert mine in wheel["run"]
    assert "tail -n 1" in wheel["run"], "the first record counts, and the newest is listed first"
    assert "sha256sum --check --strict" in wheel["run"]
    assert wheel["env"]["COMMIT"] == "${{ steps.release.outputs.commit }}"
    assert wheel["env"]["TAG"] == "${{ steps.release.outputs.tag }}"
    assert provenance["if"] == "inputs.attested == 'on'"
    for option in (
        '--repo "$GH_REPO"',
        '--signer-workflow "$SIGNER"',
        '--source-digest "$COMMIT"',
        '--source-ref "refs/tags/$TAG"',
    ):
        assert option in provenance["run"]
    assert provenance["env"]["SIGNER"].endswith("/.github/workflows/staging.yml")


def a_release_is_made_of_what_passed(it: Rendered) -> None:
    build = it.jobs["staging/build"]["steps"]
    notes, made, wheel, kept_notes = build[-4:]
    assert notes["if"] == kept_notes["if"] == "github.ref_type == 'tag'"
    assert notes["run"] == 'python3 -m ci.notes "$GITHUB_REF_NAME" notes.md'
    assert made["run"] == "python3 -m ci.run build"
    assert wheel["with"] == {
        "name": "wheel",
        "path": "dist/",
        "if-no-files-found": "error",
        "retention-days": 90,
    }
    _, fetched, done = it.jobs["staging/release"]["steps"]
    assert fetched["with"]["pattern"] == "{wheel,notes,staging-reports}"
    recorded, published = (
        done["run"].index("/statuses/$GITHUB_SHA"),
        done["run"].index("gh release"),
    )
    assert recorded < published, "what is published has its digest on record"
    assert 'description="sha256:$digest"' in done["run"]
    for part in (
        "made/*.whl",
        "made/sbom*.json",
        "made/model_card*.md",
        "requirements/run*.txt",
        "--verify-tag",
        "--notes-file made/notes.md",
    ):
        assert part in done["run"]
    (subject,) = [step for _, step in it.using("attest-build-provenance")]
    assert subject["with"] == {"subject-path": "dist/*.whl"}


def a_pull_request_runs_all_tasks_and_says_how_they_ended(it: Rendered) -> None:
    def runs(job: str) -> list[str]:
        steps = it.jobs[f"pull-request/{job}"]["steps"]
        return [step["run"] for step in steps if "python3" in step.get("run", "")]

    for task in ("lint", "types", "unit", "integration"):
        assert runs(task) == [f"python3 -m ci.run {task}"]
    assert runs("model") == [
        f"python3 -m ci.run {task}" for task in ("score", "score", "champion", "compare")
    ]
    assert runs("ready") == ["python3 -m ci.report results report.md"]
    for place, step in it.using("actions/upload-artifact"):
        if place.startswith("pull-request/"):
            always = place == "pull-request/ready"
            assert step["if"] == ("${{ always() }}" if always else NOT_CANCELLED), place
    for job in ("unit", "integration"):
        assert any(place == f"pull-request/{job}" for place, _ in it.using("upload-artifact"))
    kept = {
        step["with"]["name"]
        for place, step in it.using("upload-artifact")
        if "pull-request" in place
    }
    assert kept == {"tests-unit-${{ matrix.python }}", "tests-integration", "model", "report"}
    ready = it.jobs["pull-request/ready"]
    assert ready["steps"][1]["with"]["pattern"] == "{tests-*,model}"
    assert ready["name"] == "Ready to merge"
    (report,) = [step for step in ready["steps"] if "ci.report" in step.get("run", "")]
    assert report["env"]["NEEDS"] == "${{ toJSON(needs) }}"
    assert report["env"]["OVERRIDE"] == "${{ steps.override.outputs.why }}"
    assert "if" not in report
    for place, step in it.steps():
        assert "continue-on-error" not in step, place


def the_pythons_that_are_promised_are_tested(it: Rendered) -> None:
    metadata = (it.project / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", metadata)
    assert it.jobs["pull-request/unit"]["strategy"]["matrix"] == {"python": promised}


def only_a_label_with_a_reason_overrides(it: Rendered) -> None:
    steps = it.jobs["pull-request/ready"]["steps"]
    (override,) = [step for step in steps if step.get("id") == "override"]
    failed = "needs.model.result == 'failure' && github.event_name != 'workflow_dispatch'"
    assert override["if"] == failed
    assert 'select(any(.labels[]; .name == "model-override"))' in override["run"]
    assert "^Model override: *(?<why>[^\\\\s]" in override["run"]


def both_models_are_trained_where_they_belong(it: Rendered) -> None:
    job = it.jobs["pull-request/model"]
    head, base, other = job["steps"][0], job["steps"][1], job["steps"][2]
    assert head["with"]["fetch-depth"] == 2
    assert head["with"]["path"] == "head"
    assert "parent=$(git -C head rev-parse HEAD^1)" in base["run"]
    assert "commit=${QUEUED:-$parent}" in base["run"]
    assert base["env"] == {"QUEUED": "${{ github.event.merge_group.base_sha }}"}
    assert other["with"]["ref"] == "${{ steps.base.outputs.commit }}"
    assert other["with"]["path"] == "base"
    assert job["env"] == {"OPPONENT": "${{ vars.OPPONENT }}"}
    run = [
        (step["working-directory"], step.get("if"), step["env"]["SCORES"].rpartition("/")[2])
        for step in job["steps"]
        if "ci.run" in step.get("run", "")
    ]
    assert run == [
        ("head", None, "head.parquet"),
        ("base", "env.OPPONENT == ''", "base.parquet"),
        ("head", "env.OPPONENT != ''", "base.parquet"),
        ("head", None, "scores"),
    ]


def failures_are_told(it: Rendered) -> None:
    red = "${{ contains(needs.*.result, 'failure') || contains(needs.*.result, 'cancelled') }}"
    found = dict(it.using("actions/alert"))
    assert {place: step["with"]["red"] for place, step in found.items()} == {
        "staging/alert": red,
        "production/alert": red,
    }
    (step,) = it.actions["alert"]["runs"]["steps"]
    assert "--limit 1000" in step["run"], "gh lists 30 unless told"
    assert "--state open" in step["run"]
    for verb in ("issue comment", "issue create", "issue close"):
        assert f"gh {verb}" in step["run"]


def schedules_only_start_the_branch_release(it: Rendered) -> None:
    (step,) = it.jobs["production/start"]["steps"]
    assert step["run"] == "gh workflow run production.yml --ref release"


def a_comment_is_kept_up_to_date(it: Rendered) -> None:
    report = (it.project / "ci" / "forge.py").read_text(encoding="utf-8")
    found = re.search(r'^MARKER = "(.+)"  #', report, re.MULTILINE)
    assert found
    step = it.jobs["pull-request/comment"]["steps"][-1]
    assert f'select(.user.type == "Bot" and (.body | startswith("{found[1]}")))' in step["run"]
    assert "--paginate" in step["run"]
    assert "--field body=@report.md" in step["run"]


def tasks_are_what_they_should_be(it: Rendered) -> None:
    found = {}
    for task, content in it.commands.items():
        if task == "advice":
            continue
        words = []
        for command in (*content["run"], *content.get("finally", ())):
            _, _, session, *rest = command.split()
            named = {"cli": rest[0], "ci": f"ci:{rest[0]}"} if rest else {}
            words.append(named.get(session, session))
            env = "staging" if task == "staging" else "prod"
            assert session != "cli" or f"--env {env}" in command, command
        found[task] = " ".join(words)
    assert found == VERBS


def decisions_are_bound_to_a_version_and_a_person(it: Rendered) -> None:
    for task in ("approve", "reject"):
        (command,) = it.commands[task]["run"]
        assert "--version $VERSION --who $WHO --why $WHY" in command, task
    (command,) = it.commands["rollback"]["run"]
    assert "--who $WHO --why $WHY" in command
    for task in ("staging", "candidate"):
        trained, deployed = (
            next(line for line in it.commands[task]["run"] if f"cli {verb}" in line)
            for verb in ("train", "deploy")
        )
        assert "--outputs $OUTPUTS" in trained, task
        assert "--version $version --who $WHO" in deployed, task
    assert "--outputs $OUTPUTS" in it.commands["candidate"]["run"][-1]
    for task in ("daily", "deploy"):
        assert "deploy --env prod --new --who $WHO" in it.commands[task]["run"][-1], task


def tests_leave_what_the_report_reads(it: Rendered) -> None:
    for command in it.commands["integration"]["run"]:
        session = command.split()[2]
        assert f"--junitxml=reports/{session}.xml" in command
    # Several write one, and all are read in one folder.
    assert "--junitxml=reports/unit-$PYTHON.xml" in it.commands["unit"]["run"][0]
    (unit,) = [
        step for step in it.jobs["pull-request/unit"]["steps"] if "ci.run" in step.get("run", "")
    ]
    assert unit["env"] == {"PYTHON": "${{ matrix.python }}"}


def proposed_locks_are_checked(it: Rendered) -> None:
    run = it.jobs["locks/propose"]["steps"][-1]["run"]
    assert 'gh workflow run pull-request.yml --ref "$BRANCH"' in run
    locks = [step.get("run") for step in it.jobs["locks/lock"]["steps"]]
    assert "python3 bootstrap.py lock --upgrade" in locks


def rulesets_protect_by_the_check_that_counts(it: Rendered) -> None:
    found = {}
    for path in sorted((it.github / "rulesets").glob("*.json")):
        found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
    assert set(found) == {"main", "release", "tags"}
    assert all(ruleset["enforcement"] == "active" for ruleset in found.values())
    kinds = {name: {rule["type"] for rule in it["rules"]} for name, it in found.items()}
    assert kinds == {
        "main": {"deletion", "non_fast_forward", "pull_request", "required_status_checks"},
        # Checks that are required on a branch that is pushed to would block every release.
        "release": {"deletion", "non_fast_forward"},
        "tags": {"deletion", "non_fast_forward", "update"},
    }
    (checks,) = [
        rule["parameters"]["required_status_checks"]
        for rule in found["main"]["rules"]
        if rule["type"] == "required_status_checks"
    ]
    named = [it.jobs["pull-request/ready"]["name"]]
    assert [check["context"] for check in checks] == named
    places = {name: it["conditions"]["ref_name"]["include"] for name, it in found.items()}
    assert places == {
        "main": ["refs/heads/main"],
        "release": ["refs/heads/release"],
        "tags": ["refs/tags/v*"],
    }


RULES: tuple[Callable[[Rendered], None], ...] = (
    actions_are_pinned,
    jobs_may_do_what_they_need_and_no_more,
    jobs_wait_for_what_they_build_on,
    jobs_run_under_their_condition_only,
    what_touches_an_environment_goes_through_one_workflow,
    nothing_that_waits_is_lost_or_in_the_way,
    workflows_start_when_they_should,
    every_job_ends,
    nobody_waits_for_a_runner_that_is_not_there,
    shells_stop_at_the_first_error,
    no_expression_stands_in_a_shell_line,
    values_arrive_as_variables_that_are_used,
    a_checkout_leaves_no_token_and_no_old_file,
    the_wheel_of_an_earlier_run_is_forgotten,
    caches_are_keyed_by_the_locks_and_written_on_main,
    strangers_get_neither_a_secret_nor_a_token_that_writes,
    the_environment_is_entered_in_this_order,
    an_approval_is_passed_on_with_its_version_and_its_name,
    a_released_wheel_is_the_one_that_staging_recorded,
    a_release_is_made_of_what_passed,
    a_pull_request_runs_all_tasks_and_says_how_they_ended,
    the_pythons_that_are_promised_are_tested,
    only_a_label_with_a_reason_overrides,
    both_models_are_trained_where_they_belong,
    failures_are_told,
    schedules_only_start_the_branch_release,
    a_comment_is_kept_up_to_date,
    tasks_are_what_they_should_be,
    decisions_are_bound_to_a_version_and_a_person,
    tests_leave_what_the_report_reads,
    proposed_locks_are_checked,
    rulesets_protect_by_the_check_that_counts,
)
