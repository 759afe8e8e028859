"""Rules that hold for every workflow: of this repository and of all renderings."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT, execute

BIN = Path(sys.executable).parent
PINNED = re.compile(
    r"\s+(- )?uses: (?P<action>[\w.-]+/[\w./-]+)@(?P<commit>[0-9a-f]{40})"
    r" # (?P<version>v\d+\.\d+\.\d+)"
)
# The well-known actions that are used, each at one commit everywhere.
ACTIONS = {
    "actions/attest-build-provenance",
    "actions/cache",
    "actions/checkout",
    "actions/download-artifact",
    "actions/setup-python",
    "actions/upload-artifact",
}
# Expressions that hold nothing that a stranger can choose may stand in a shell line; none needs to.
EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
STRICT = "bash -euo pipefail {0}"
WRITES = {"pull-requests", "issues", "id-token", "attestations", "contents"}
# The jobs that may write, and what.
MAY_WRITE = {
    ("merge-request", "comment"): {"pull-requests"},
    ("staging", "attest"): {"attestations", "id-token"},
    ("staging", "alert"): {"issues"},
    ("production", "alert"): {"issues"},
    ("weekly", "change"): {"contents", "pull-requests"},
    ("weekly", "alert"): {"issues"},
}


@pytest.fixture(scope="session", params=["rendered", "own"])
def github(request: pytest.FixtureRequest, project: Path) -> Path:
    """The `.github` of a rendering, and of this repository."""
    return (project if request.param == "rendered" else ROOT) / ".github"


def workflows(github: Path) -> dict[str, dict[Any, Any]]:
    found = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (github / "workflows").iterdir()
    }
    assert found
    return found


def jobs(github: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name, workflow in workflows(github).items():
        for job, content in workflow["jobs"].items():
            yield name, job, content


def steps(github: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job, content in jobs(github):
        for step in content["steps"]:
            yield f"{name}/{job}", step
    for path in (github / "actions").glob("*/action.yml"):
        for step in yaml.safe_load(path.read_text(encoding="utf-8"))["runs"]["steps"]:
            yield path.parent.name, step


def triggers(workflow: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workflow[True]  # YAML 1.1 reads `on` as a truth value
    return found


def test_the_four_workflows_are_there(project: Path) -> None:
    assert set(workflows(project / ".github")) == {
        "merge-request",
        "staging",
        "release",
        "production",
    }


def test_actions_are_pinned_to_commits_with_their_version(github: Path) -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for path in github.rglob("*.yml"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s+(- )?uses:", line) and "uses: ./" not in line:
                found = PINNED.fullmatch(line)
                assert found, f"{path.name}: {line}"
                pins.setdefault(found["action"], set()).add((found["commit"], found["version"]))
    assert set(pins) <= ACTIONS
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_this_repository_pins_what_it_renders(project: Path) -> None:
    def pins(folder: Path) -> set[str]:
        texts = (path.read_text(encoding="utf-8") for path in folder.rglob("*.yml"))
        return {
            line.partition("uses: ")[2]
            for text in texts
            for line in text.splitlines()
            if "uses: actions/" in line
        }

    assert pins(ROOT / ".github") <= pins(project / ".github")


def test_nothing_is_permitted_that_is_not_needed(github: Path) -> None:
    assert all(workflow["permissions"] == {} for workflow in workflows(github).values())
    for name, job, content in jobs(github):
        written = {scope for scope, level in content["permissions"].items() if level == "write"}
        assert written == MAY_WRITE.get((name, job), set()), f"{name}/{job}"
        assert set(content["permissions"].values()) <= {"read", "write"}
        assert written <= WRITES


def test_everything_ends_and_nothing_overlaps(github: Path) -> None:
    for name, workflow in workflows(github).items():
        assert set(workflow["concurrency"]) == {"group", "cancel-in-progress"}, name
    for name, job, content in jobs(github):
        assert 0 < content["timeout-minutes"] <= 360, f"{name}/{job}"


def test_only_what_changes_nothing_outside_is_cancelled(project: Path) -> None:
    cancelled = {
        name
        for name, it in workflows(project / ".github").items()
        if it["concurrency"]["cancel-in-progress"]
    }
    assert cancelled == {"merge-request"}


def test_training_and_scoring_of_production_never_overlap(project: Path) -> None:
    groups = {
        (name, job): content["concurrency"]["group"]
        for name, job, content in jobs(project / ".github")
        if "concurrency" in content
    }
    writers = [("release", "candidate"), ("release", "announced"), ("production", "score")]
    assert groups == dict.fromkeys(writers, "production-tables")


def test_a_rollback_does_not_wait_behind_a_release_that_waits_for_an_approval(
    project: Path,
) -> None:
    release = workflows(project / ".github")["release"]
    assert (
        release["concurrency"]["group"] == "release-${{ github.event_name }}-${{ inputs.action }}"
    )
    assert set(triggers(release)) == {"push", "repository_dispatch", "workflow_dispatch"}
    assert "concurrency" not in release["jobs"]["decide"]


def test_shells_stop_at_the_first_error(github: Path) -> None:
    for name, workflow in workflows(github).items():
        assert workflow["defaults"] == {"run": {"shell": STRICT}}, name
    for place, step in steps(github):
        if "run" in step:
            assert step.get("shell", STRICT) == STRICT, place
            assert "/" in place or "shell" in step, place


def test_no_expression_stands_in_a_shell_line(github: Path) -> None:
    assert [place for place, step in steps(github) if EXPRESSION.search(step.get("run", ""))] == []


def test_a_step_is_one_line(project: Path) -> None:
    shells = [step["run"] for _, step in steps(project / ".github") if "run" in step]
    assert [
        shell for shell in shells if "\n" in shell.strip() or "&&" in shell or ";" in shell
    ] == []
    sessions = set(
        re.findall(
            r"^def (\w+)\(session",
            (project / "noxfile.py").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    for shell in shells:
        known = re.match(
            r"python3 (?:\w+/)?bootstrap\.py (\w+)|python3 -m ci\.(\w+)"
            r"|gh attestation verify|rm -rf dist",
            shell,
        )
        assert known, shell
        session, script = known.groups()
        assert session is None or session in sessions, shell
        assert script is None or (project / "ci" / f"{script}.py").is_file(), shell


def test_verbs_that_workflows_call_exist(project: Path) -> None:
    (source,) = (project / "src").glob("*/cli.py")
    verbs = set(
        re.findall(
            r"^@app\.command\(.*\)\ndef (\w+)", source.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    shells = " ".join(step.get("run", "") for _, step in steps(project / ".github"))
    called = set(re.findall(r"bootstrap\.py cli (\w+)", shells))
    release = workflows(project / ".github")["release"]
    called |= set(triggers(release)["workflow_dispatch"]["inputs"]["action"]["options"])
    assert {
        "train",
        "check",
        "compare",
        "request",
        "deploy",
        "approve",
        "reject",
        "rollback",
        "predict",
    } <= called
    assert {"monitor", "retrain"} <= called
    assert called <= verbs


def test_caches_are_keyed_by_the_locks(github: Path) -> None:
    for place, step in steps(github):
        if step.get("uses", "").startswith("actions/cache@"):
            assert re.search(r"hashFiles\('(\*\*/)?requirements/\*\.txt'", step["with"]["key"]), (
                place
            )
            assert "restore-keys" not in step["with"], place


def test_nothing_released_comes_from_a_cache(project: Path) -> None:
    for name, job, content in jobs(project / ".github"):
        for step in content["steps"]:
            if step.get("uses", "").endswith("/actions/python") and name != "merge-request":
                assert step["with"]["cache"] == "false", f"{name}/{job}"


def test_a_checkout_leaves_no_token_behind(github: Path) -> None:
    for place, step in steps(github):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, place


def test_nothing_of_a_fork_gets_a_secret_or_a_token_that_writes(github: Path) -> None:
    for name, workflow in workflows(github).items():
        assert not {"pull_request_target", "workflow_run"} & set(triggers(workflow)), name
        if "pull_request" not in triggers(workflow):
            continue
        for job, content in workflow["jobs"].items():
            assert "secrets." not in str(content), f"{name}/{job}"
            assert "environment" not in content, f"{name}/{job}"
            if "write" in content["permissions"].values():
                own = "github.event.pull_request.head.repo.full_name == github.repository"
                assert own in content["if"], f"{name}/{job}"


def test_whatever_decides_in_production_waits_for_an_approval(project: Path) -> None:
    release = workflows(project / ".github")["release"]["jobs"]
    environments = {name: job["environment"] for name, job in release.items()}
    assert environments == {
        "candidate": "production",
        "announced": "production-schedule",
        "promote": "promotion",
        "decide": "production",
    }
    assert release["promote"]["needs"] == "candidate"
    granted = "needs.candidate.result == 'success' || inputs.action == 'approve'"
    assert release["promote"]["if"] == f"${{{{ !cancelled() && ({granted}) }}}}"
    assert (
        release["decide"]["if"]
        == "github.event_name == 'workflow_dispatch' && inputs.action != 'approve'"
    )
    verbs = {
        name: re.findall(r"cli (\S+)", " ".join(step.get("run", "") for step in job["steps"]))
        for name, job in release.items()
    }
    assert "approve" not in {*verbs["candidate"], *verbs["announced"]}
    assert verbs["promote"] == ["approve"]


def test_the_event_of_the_registry_is_the_one_that_is_sent(project: Path) -> None:
    event = triggers(workflows(project / ".github")["release"])["repository_dispatch"]
    sender = (project / "ci" / "dispatch.py").read_text(encoding="utf-8")
    assert re.findall(r'^EVENT = "(.+)"$', sender, re.MULTILINE) == event["types"]


def test_a_job_that_runs_verbs_says_in_its_summary_what_to_do(project: Path) -> None:
    advice = (project / "ci" / "jobs.py").read_text(encoding="utf-8")
    for name, job, content in jobs(project / ".github"):
        verbs = [step for step in content["steps"] if "bootstrap.py cli" in step.get("run", "")]
        if not verbs:
            continue
        summary = content["steps"][-1]
        assert summary["run"] == "python3 -m ci.summary", f"{name}/{job}"
        assert summary["if"] == "${{ !cancelled() }}", f"{name}/{job}"
        assert summary["env"]["STEPS"] == "${{ toJSON(steps) }}", f"{name}/{job}"
        assert [step["id"] for step in verbs if f'"{step["id"]}": ' not in advice] == [], (
            f"{name}/{job}"
        )
        reports = [step["with"]["name"] for step in content["steps"] if step.get("id") == "reports"]
        assert (
            bool(reports) == ("REPORTS" in summary["env"]) == (job not in ("promote", "decide"))
        ), f"{name}/{job}"


def test_later_jobs_of_a_merge_request_wait_for_the_earlier(project: Path) -> None:
    merge_request = workflows(project / ".github")["merge-request"]["jobs"]
    assert {name: job.get("needs") for name, job in merge_request.items()} == {
        "lint": None,
        "types": None,
        "unit": None,
        "integration": ["lint", "types", "unit"],
        "model": "integration",
        "report": ["lint", "types", "unit", "integration", "model"],
        "comment": "report",
    }


def test_the_workflows_test_the_pythons_that_are_promised(project: Path) -> None:
    metadata = (project / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r"Python :: (3\.\d+)", metadata)
    matrix = workflows(project / ".github")["merge-request"]["jobs"]["unit"]["strategy"]["matrix"]
    assert matrix == {"python": promised}


def test_workflows_are_the_same_in_every_rendering(project: Path, template: Path) -> None:
    source = template / "{{cookiecutter.project_slug}}" / ".github"
    files = [path for path in source.rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        assert (project / ".github" / path.relative_to(source)).read_bytes() == path.read_bytes(), (
            path.name
        )


def test_every_exception_of_zizmor_has_a_reason(github: Path) -> None:
    if (github / "zizmor.yml").exists():
        lines = (github / "zizmor.yml").read_text(encoding="utf-8").splitlines()
        excepted = [line for line in lines if re.search(r"disable|ignore|\.yml:", line)]
        assert [line for line in excepted if " # " not in line] == []
    assert [
        path.name
        for path in github.rglob("*.yml")
        if "zizmor: ignore" in path.read_text(encoding="utf-8")
    ] == []


PLANTED = {
    "unpinned": ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
    "untrusted text": (
        "run: python3 bootstrap.py types",
        "run: echo ${{ github.event.pull_request.title }}",
        "template-injection",
    ),
    "permissions": ("permissions: {}", "permissions: write-all", "excessive-permissions"),
    "credentials": ("persist-credentials: false", "fetch-depth: 1", "artipacked"),
    "overlap": (
        "  group: merge-request-${{ github.event.pull_request.number }}\n",
        "",
        "schema|concurrency",
    ),
    "unknown key": ("timeout-minutes: 15", "timeout-minuts: 15", "schema"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_the_linters_catch_what_they_are_there_for(
    project: Path, tmp_path: Path, fault: str
) -> None:
    before, after, finding = PLANTED[fault]
    text = (project / ".github" / "workflows" / "merge-request.yml").read_text(encoding="utf-8")
    assert before in text
    place = tmp_path / ".github" / "workflows" / "merge-request.yml"
    place.parent.mkdir(parents=True)
    shutil.copy(project / ".github" / "zizmor.yml", tmp_path / ".github")
    place.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(AssertionError, match=f"(?i){finding}"):
        lint(tmp_path / ".github")


def test_the_linters_find_nothing(github: Path) -> None:
    lint(github)


def lint(github: Path) -> None:
    execute(
        BIN / "zizmor",
        "--offline",
        "--pedantic",
        "--quiet",
        "--no-progress",
        github,
        cwd=github.parent,
    )
    files = sorted((github / "workflows").glob("*.yml"))
    schema = ("--builtin-schema", "vendor.github-workflows")
    execute(BIN / "check-jsonschema", *schema, *files, cwd=github.parent)
