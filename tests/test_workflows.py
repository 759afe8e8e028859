"""Rules that hold for every workflow: of this repository and of all renderings."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rules import (
    ACTIONS,
    RULES,
    Rendered,
    no_expression_stands_in_a_shell_line,
    shells_stop_at_the_first_error,
)
from support import ROOT, execute

BIN = Path(sys.executable).parent


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_workflows_of_a_project(project: Path, rule: Callable[[Rendered], None]) -> None:
    rule(Rendered(project))


@pytest.fixture(scope="session", params=["rendered", "own"])
def github(request: pytest.FixtureRequest, project: Path) -> Path:
    """The `.github` of a rendering, and of this repository."""
    return (project if request.param == "rendered" else ROOT) / ".github"


def test_the_workflows_of_this_repository_are_careful(project: Path) -> None:
    own = Rendered(ROOT)
    assert all(workflow["permissions"] == {} for workflow in own.workflows.values())
    written = {
        (place, scope)
        for place, job in own.jobs.items()
        for scope, level in job["permissions"].items()
        if level == "write"
    }
    assert written == {
        ("weekly/change", "contents"),
        ("weekly/change", "pull-requests"),
        ("weekly/alert", "issues"),
    }
    shells_stop_at_the_first_error(own)
    no_expression_stands_in_a_shell_line(own)
    for name, workflow in own.workflows.items():
        assert not {"pull_request_target", "workflow_run"} & set(workflow[True]), name
    for place, job in own.jobs.items():
        assert 0 < job["timeout-minutes"] <= 180, place
    for place, step in own.using("actions/checkout"):
        assert step["with"]["persist-credentials"] is False, place


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
    assert {pin.partition("@")[0] for pin in pins(project / ".github")} == ACTIONS


def test_every_session_and_script_that_is_called_exists(project: Path) -> None:
    it = Rendered(project)
    noxfile = (project / "noxfile.py").read_text(encoding="utf-8")
    (source,) = (project / "src").glob("*/cli.py")
    verbs = re.findall(
        r"^@app\.command\(.*\)\ndef (\w+)", source.read_text(encoding="utf-8"), re.MULTILINE
    )
    for task, content in it.commands.items():
        for command in (*content.get("run", ()), *content.get("finally", ())):
            _, script, session, *rest = command.split()
            assert script == "bootstrap.py", task
            assert session == "list" or f"def {session}(session" in noxfile, command
            assert session != "cli" or rest[0] in verbs, command
    for place, step in it.steps():
        for name in re.findall(r"python3 -m ci\.(\w+)", step.get("run", "")):
            assert (project / "ci" / f"{name}.py").is_file(), place
        for name in re.findall(r"ci\.run (\w+)", step.get("run", "")):
            assert name in it.commands, place
    for place, job in it.jobs.items():
        task = job.get("with", {}).get("task", "demo")
        assert task in it.commands or task == "${{ inputs.action }}", place
    options = it.workflows["release"][True]["workflow_dispatch"]["inputs"]["action"]["options"]
    assert set(options) <= set(it.commands)


def test_workflows_are_the_same_in_every_rendering(project: Path, template: Path) -> None:
    source = template / "{{cookiecutter.project_slug}}" / ".github"
    files = [path for path in source.rglob("*") if path.is_file()]
    assert len(files) > 12
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


def ruleset_schema() -> dict[str, Any]:
    """What GitHub takes as a ruleset (its OpenAPI description), as far as the files use it."""

    def fixed(required: dict[str, Any]) -> dict[str, Any]:
        names = list(required)
        return {
            "type": "object",
            "properties": required,
            "required": names,
            "additionalProperties": False,
        }

    def rule(kind: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        given = {"parameters": fixed(parameters)} if parameters else {}
        return fixed({"type": {"const": kind}, **given})

    flag, text, texts = {"type": "boolean"}, {"type": "string"}, {"type": "array"}
    reviews = {
        "required_approving_review_count": {"type": "integer", "minimum": 0, "maximum": 10},
        "dismiss_stale_reviews_on_push": flag,
        "require_code_owner_review": flag,
        "require_last_push_approval": flag,
        "required_review_thread_resolution": flag,
    }
    check = fixed({"context": text, "integration_id": {"type": "integer"}})
    checks = {
        "strict_required_status_checks_policy": flag,
        "required_status_checks": {"type": "array", "items": check},
    }
    rules = [
        rule("deletion"),
        rule("non_fast_forward"),
        rule("update"),
        rule("pull_request", reviews),
        rule("required_status_checks", checks),
    ]
    roles = ["RepositoryRole", "Team", "Integration", "OrganizationAdmin", "DeployKey"]
    actor = {
        "actor_id": {"type": "integer"},
        "actor_type": {"enum": roles},
        "bypass_mode": {"enum": ["always", "pull_request", "exempt"]},
    }
    return fixed(
        {
            "name": text,
            "target": {"enum": ["branch", "tag", "push"]},
            "enforcement": {"enum": ["disabled", "active", "evaluate"]},
            "bypass_actors": {"type": "array", "items": fixed(actor)},
            "conditions": fixed({"ref_name": fixed({"include": texts, "exclude": texts})}),
            "rules": {"type": "array", "items": {"oneOf": rules}},
        }
    )


def test_rulesets_can_be_imported(project: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(ruleset_schema()), encoding="utf-8")
    files = sorted((project / ".github" / "rulesets").glob("*.json"))
    check = (BIN / "check-jsonschema", "--schemafile", schema)
    execute(*check, *files, cwd=project)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(files[0].read_text(encoding="utf-8").replace("deletion", "removal"))
    with pytest.raises(AssertionError, match="removal"):
        execute(*check, wrong, cwd=project)


def test_the_image_is_rootless_locked_and_tells_whether_it_is_well(project: Path) -> None:
    lines = (project / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert "USER 10001" in lines
    assert lines.index("USER 10001") < next(
        number for number, line in enumerate(lines) if line.startswith("ENTRYPOINT")
    )
    installs = [line for line in lines if "pip install" in line]
    assert all("--require-hashes" in line or "--no-deps /dist/" in line for line in installs)
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    (package,) = (path.name for path in (project / "src").iterdir())
    assert f'"{package}"' in entry


PLANTED = {
    "unpinned": ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "unpinned-uses"),
    "untrusted text": (
        "run: python3 -m ci.run types",
        "run: echo ${{ github.event.pull_request.title }}",
        "template-injection",
    ),
    "permissions": ("permissions: {}", "permissions: write-all", "excessive-permissions"),
    "credentials": ("persist-credentials: false", "fetch-depth: 1", "artipacked"),
    "overlap": (
        "  group: pull-request-${{ github.event.pull_request.number || github.ref }}\n",
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
    text = (project / ".github" / "workflows" / "pull-request.yml").read_text(encoding="utf-8")
    assert before in text
    place = tmp_path / ".github" / "workflows" / "pull-request.yml"
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
    for kind, pattern in (("workflows", "*.yml"), ("actions", "*/action.yml")):
        if files := sorted((github / kind).glob(pattern)):
            schema = ("--builtin-schema", f"vendor.github-{kind}")
            execute(BIN / "check-jsonschema", *schema, *files, cwd=github.parent)


def test_owners_are_those_of_the_roles_pages(project: Path) -> None:
    owners = (project / ".github" / "CODEOWNERS").read_text(encoding="utf-8")
    paths = [line for line in owners.splitlines() if line.startswith("/")]
    assert all(list(project.glob(path.strip("/"))) for path in paths)
    for role, folder in (("data-scientist", "problem/"), ("ml-engineer", ".github/")):
        assert f"docs/{role}.md" in owners
        page = (project / "docs" / f"{role}.md").read_text(encoding="utf-8")
        assert any(path.endswith(folder) for path in paths)
        assert folder in page


def jobs_of(workflow: str) -> dict[str, Any]:
    """Of a workflow of this repository."""
    path = ROOT / ".github" / "workflows" / f"{workflow}.yml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"])


@pytest.fixture
def jobs() -> dict[str, Any]:
    """Of this repository's own workflow for each change."""
    return jobs_of("ci")


def test_the_forge_runs_what_is_run_before_a_change_is_kept(jobs: dict[str, Any]) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (words,) = re.findall(r"^sessions=\((.+?)\)$", script, re.MULTILINE | re.DOTALL)
    listed = set(words.split())
    assert "tests" in listed
    # then each part of `tests` has a job of its own, and what one machine has no time for, too
    in_tests = {"lint", "types", "unit", "integration"}
    on_the_forge = {"cluster"}
    change, week = jobs["tests"], jobs_of("weekly")["newest"]
    assert sessions_of(change) == listed - {"tests"} | in_tests | on_the_forge
    assert sessions_of(week) == listed | on_the_forge | {"swapped"}
    for job in (change, week):
        assert job["steps"][-1] == {
            "uses": "./.github/actions/session",
            "with": {"session": "${{ matrix.session }}"},
        }


def sessions_of(job: dict[str, Any]) -> set[str]:
    return set(job["strategy"]["matrix"]["session"])


def test_the_forge_renders_and_runs_a_project_on_windows_and_macos(jobs: dict[str, Any]) -> None:
    job = jobs["elsewhere"]
    assert job["runs-on"] == "${{ matrix.system }}"
    assert job["strategy"]["matrix"] == {"system": ["windows-latest", "macos-latest"]}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python bootstrap.py unit", "python bootstrap.py demo"]
