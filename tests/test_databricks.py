"""What comes with `platform: databricks`, and with nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from post_gen_project import LOGIN, LOGINS, PARTS, keep_parts
from pytest_cookies.plugin import Cookies
from rules import (
    ACTIONS,
    RULES,
    VERBS,
    Rendered,
    decisions_are_bound_to_a_version_and_a_person,
    tasks_are_what_they_should_be,
)
from support import LONGEST, NASTY, PROBLEM_TYPES, ROOT, Bake, checked, files_in, nox
from test_structure import COLUMNS, PARSERS, PRAGMA, SCARS
from test_workflows import lint

TEMPLATE = ROOT / "{{cookiecutter.project_slug}}"
# What these files hold for Databricks to fill in.
PLACES = re.compile(r"\{\{(job|tasks)\.[a-z_.]+\}\}")
# Files that hold lines for Databricks among others.
SHARED = (
    "README.md",
    "ci/commands.toml",
    "noxfile.py",
    "pyproject.toml",
    "tests/unit/test_ci.py",
    "zensical.toml",
)
JINJA = re.compile(r"\{\{|\{%|cookiecutter")


@pytest.fixture(scope="module")
def on_databricks(cookies_session: Cookies, template: Path) -> Path:
    """The default project, on Databricks."""
    result = checked(cookies_session, template)(platform="databricks")
    assert result.exception is None
    return Path(result.project_path)


def own_files(package: str) -> set[str]:
    """What the hook says comes with this choice."""
    answer = "{{ cookiecutter.get('package_name') }}"
    return {name.replace(answer, package) for name in PARTS["platform"]["databricks"]}


def test_what_comes_with_it_is_what_the_hook_leaves_out(bake: Bake, on_databricks: Path) -> None:
    local = files_in(bake().project_path)
    there = files_in(on_databricks)
    assert there.keys() - local.keys() == own_files("flight_delays")
    assert local.keys() <= there.keys()


def test_other_files_differ_by_whole_lines_that_are_added(bake: Bake, on_databricks: Path) -> None:
    local = files_in(bake().project_path)
    there = files_in(on_databricks)
    changed = {name for name, content in local.items() if there[name] != content}
    assert (there.pop(LOGIN), LOGIN in changed) == (there[LOGINS["databricks"]], True)
    assert changed - {LOGIN} == set(SHARED)
    # what touches an environment is done by other commands there
    contract = "ci/commands.toml"
    assert not re.search(r"databricks|ci\.workspace", local[contract].decode())
    for name in changed - {LOGIN, contract}:
        more = iter(there[name].decode().splitlines())
        left_out = re.compile(r" \[Databricks\]\(docs/databricks\.md\);")
        lines = local[name].decode().splitlines()
        assert all(any(line == left_out.sub("", other) for other in more) for line in lines), name


def test_files_of_the_user_stay_where_others_are_left_out(tmp_path: Path) -> None:
    for name in (
        "resources/jobs.yml",
        "resources/ours.yml",
        "tests/bundle/jobs.py",
        "conf/dev.yml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    keep_parts(tmp_path, {"contents": "everything", "ci": "github", "platform": "local"})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"resources", "resources/ours.yml", "conf", "conf/dev.yml"}


def test_its_files_are_whole(on_databricks: Path) -> None:
    for name in (*own_files("flight_delays"), *SHARED):
        text = (on_databricks / name).read_text(encoding="utf-8")
        assert not JINJA.search(PLACES.sub("", text)), name
        assert not SCARS.search(text), name
        assert text.endswith("\n"), name
        if parse := PARSERS.get(Path(name).suffix):
            parse(text)


INTEGRATION = f"{VERBS['integration']} databricks"
DEPLOY = "databricks bundle deploy --target {} --var build=true"
RUN = "databricks bundle run --target {} {}"
NEWEST = "python3 -m ci.workspace newest prod $OUTPUTS"
GATES = RUN.format("prod", "--only gates deployment -- --model_version=$version")
REPORTS = "python3 -m ci.workspace reports {} reports"
DECIDED = "-- --model_version=$VERSION --who=$WHO --why=$WHY"
# What is done in the workspace, in this order, and what is done at the end in any case.
IN_WORKSPACE: dict[str, tuple[list[str], list[str]]] = {
    "staging": (
        [DEPLOY.format("staging"), RUN.format("staging", "integration -- --as_of=$AS_OF")],
        [REPORTS.format("staging")],
    ),
    "init": ([DEPLOY.format("prod"), RUN.format("prod", "init")], []),
    "candidate": (
        [
            DEPLOY.format("prod"),
            RUN.format("prod", "training -- --as_of=$AS_OF"),
            NEWEST,
            GATES,
            "python3 -m ci.workspace waiting prod $OUTPUTS",
        ],
        [REPORTS.format("prod")],
    ),
    "daily": (["python3 -m ci.workspace day prod $AS_OF"], [REPORTS.format("prod")]),
    "deploy": ([NEWEST, GATES], []),
    "approve": ([RUN.format("prod", f"deployment {DECIDED}")], []),
    "reject": ([RUN.format("prod", f"reject {DECIDED}")], []),
    "rollback": ([RUN.format("prod", "rollback -- --who=$WHO --why=$WHY")], []),
}


def what_touches_an_environment_is_done_in_the_workspace(it: Rendered) -> None:
    found = {
        task: (content["run"], content.get("finally", []))
        for task, content in it.commands.items()
        if task in IN_WORKSPACE
    }
    assert found == IN_WORKSPACE
    elsewhere = {
        task: " ".join(command.split()[2] for command in content["run"])
        for task, content in it.commands.items()
        if task not in {"advice", "demo", *IN_WORKSPACE}
    }
    sessions = {task: VERBS[task].replace("ci:model", "ci") for task in elsewhere}
    assert elsewhere == {**sessions, "integration": INTEGRATION}
    assert not any("databricks" in command for command in it.commands["demo"]["run"])


def jobs_that_are_started_are_those_of_the_bundle(it: Rendered) -> None:
    text = (it.project / "resources" / "jobs.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["resources"]["jobs"]
    for run, _ in IN_WORKSPACE.values():
        for command in run:
            if found := re.search(r"(?:--only (\w+) )?(\w+)(?: -- (.*))?$", command):
                only, name, given = found.groups()
                if " bundle run " in command:
                    known = {item["name"] for item in jobs[name]["parameters"]}
                    assert set(re.findall(r"--(\w+)=", given or "")) <= known, command
                    assert {only} <= {None, *(task["task_key"] for task in jobs[name]["tasks"])}


def environments_log_in_without_a_secret(it: Rendered) -> None:
    action = it.actions["login"]
    assert "secrets." not in (it.github / "actions" / "login" / "action.yml").read_text("utf-8")
    told, program = action["runs"]["steps"]
    touched = "inputs.environment == 'staging' || inputs.environment == 'production'"
    assert told["if"] == program["if"] == touched
    assert program["uses"].startswith("databricks/setup-cli@")
    for line in (
        "DATABRICKS_AUTH_TYPE=github-oidc",
        "DATABRICKS_CLIENT_ID=$CLIENT",
        "DATABRICKS_HOST=$HOST",
    ):
        assert line in told["run"].splitlines(), line
    assert '>> "$GITHUB_ENV"' in told["run"]
    assert told["env"].keys() == {"CLIENT", "HOST"}


OTHER = (tasks_are_what_they_should_be, decisions_are_bound_to_a_version_and_a_person)
OWN_RULES: tuple[Callable[[Rendered], None], ...] = (
    *(rule for rule in RULES if rule not in OTHER),
    what_touches_an_environment_is_done_in_the_workspace,
    jobs_that_are_started_are_those_of_the_bundle,
    environments_log_in_without_a_secret,
)


@pytest.fixture
def _its_action_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rules.ACTIONS", ACTIONS | {"databricks/setup-cli"})


@pytest.mark.usefixtures("_its_action_is_known")
@pytest.mark.parametrize("rule", OWN_RULES, ids=lambda rule: rule.__name__)
def test_its_workflows_keep_rules(on_databricks: Path, rule: Callable[[Rendered], None]) -> None:
    rule(Rendered(on_databricks))


COMMANDS, ACTION = "ci/commands.toml", LOGIN
JOBS, WORKFLOWS = "resources/jobs.yml", ".github/workflows"
# File, text, what takes its place; the first occurrence.
FAULTS: tuple[tuple[str, str, str], ...] = (
    (COMMANDS, "deploy --target staging --var build=true", "deploy --target staging"),
    (COMMANDS, "deploy --target prod --var build=true", "deploy --target prod"),
    (COMMANDS, "deploy --target staging", "deploy --target prod"),
    (COMMANDS, "run --target staging integration", "run --target staging --no-wait integration"),
    (COMMANDS, "integration -- --as_of=$AS_OF", "integration"),
    (COMMANDS, '  "databricks bundle run --target staging', '  "true", "echo'),
    (COMMANDS, "training -- --as_of=$AS_OF", "loop -- --as_of=$AS_OF"),
    (COMMANDS, "--only gates deployment", "deployment"),
    (COMMANDS, "--model_version=$version", "--model_version=1"),
    (COMMANDS, '  "python3 -m ci.workspace waiting prod $OUTPUTS",\n', ""),
    (COMMANDS, "day prod $AS_OF", "day staging $AS_OF"),
    (COMMANDS, "deployment -- --model_version=$VERSION", "deployment -- --model_version=$version"),
    (COMMANDS, "$VERSION --who=$WHO --why=$WHY", "$VERSION --why=$WHY"),
    (COMMANDS, "prod reject --", "prod rollback --"),
    (COMMANDS, "rollback -- --who=$WHO", "rollback -- --who=me"),
    (COMMANDS, 'finally = ["python3 -m ci.workspace reports staging reports"]', ""),
    (COMMANDS, "bootstrap.py databricks --junitxml=reports/databricks.xml", "bootstrap.py unit"),
    (JOBS, "task_key: gates", "task_key: gate"),
    (JOBS, "name: who #", "name: whoever #"),
    (JOBS, "name: as_of #", "name: moment #"),
    (ACTION, "github-oidc", "pat"),
    (ACTION, "DATABRICKS_CLIENT_ID=$CLIENT", "DATABRICKS_TOKEN=${{ secrets.TOKEN }}"),
    (ACTION, "inputs.environment == 'staging' || ", ""),
    (ACTION, " || inputs.environment == 'production'", ""),
    (ACTION, "@fd1d91d9d3b5f1191a2aae9206f7c68a997dc52d # v1.16.0", "@main"),
    (ACTION, "databricks/setup-cli@", "somebody/setup-cli@"),
    (f"{WORKFLOWS}/environment.yml", "      id-token: write # to log in without a secret\n", ""),
    (f"{WORKFLOWS}/release.yml", "needs.approval.result == 'success'", "true"),
)


def seen(project: Path) -> bool:
    """Whether a rule objects."""
    for rule in OWN_RULES:
        try:
            rule(Rendered(project))
        except (AssertionError, KeyError, ValueError, TypeError):
            return True
    return False


@pytest.mark.usefixtures("_its_action_is_known")
@pytest.mark.parametrize("fault", [None, *FAULTS], ids=lambda fault: fault and fault[1][:40])
def test_a_fault_in_its_delivery_is_seen(
    on_databricks: Path, tmp_path: Path, fault: tuple[str, str, str] | None
) -> None:
    for part in (".github", "ci", "resources"):
        shutil.copytree(on_databricks / part, tmp_path / part)
    shutil.copy(on_databricks / "pyproject.toml", tmp_path)
    if fault:
        name, before, after = fault
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert before in text, f"{name} has no {before!r}"
        (tmp_path / name).write_text(text.replace(before, after, 1), encoding="utf-8")
    assert seen(tmp_path) == (fault is not None)


def test_the_linters_find_nothing_in_its_workflows(on_databricks: Path) -> None:
    lint(on_databricks / ".github")


def test_logins_are_the_users_where_workflows_join_a_repository(
    template: Path, tmp_path: Path
) -> None:
    project = template / "{{cookiecutter.project_slug}}"
    for contents, same in (("everything", True), ("ci_only", False)):
        place = tmp_path / contents
        shutil.copytree(project, place)
        keep_parts(place, {"contents": contents, "ci": "github", "platform": "databricks"})
        example = (project / LOGINS["databricks"]).read_bytes()
        assert ((place / LOGIN).read_bytes() == example) == same


@pytest.mark.parametrize("slug", [LONGEST, "a"])
def test_it_is_whole_with_any_names(bake: Bake, slug: str) -> None:
    project = bake(**NASTY, project_slug=slug, platform="databricks").project_path
    for name in own_files(slug.replace("-", "_")):
        text = (project / name).read_text(encoding="utf-8")
        if parse := PARSERS.get(Path(name).suffix):
            parse(text)
        if name.endswith(".py"):
            assert all(len(PRAGMA.sub("", line)) <= COLUMNS for line in text.splitlines()), name


@pytest.mark.run
@pytest.mark.parametrize(
    "session",
    ["lint", "types", "docs", pytest.param("databricks", marks=pytest.mark.swapped)],
)
def test_its_own_checks_pass(on_databricks: Path, session: str) -> None:
    assert "was successful" in nox(on_databricks, session)


# What else is in `unit` is the same without the bundle.
@pytest.mark.run
def test_its_own_unit_tests_pass(on_databricks: Path) -> None:
    assert "was successful" in nox(
        on_databricks, "unit", arguments=("-k", "test_ci or test_job or test_workspace")
    )


@pytest.mark.run
@pytest.mark.swapped
@pytest.mark.parametrize("kind", PROBLEM_TYPES[1:])
def test_tasks_run_with_any_target(bake: Bake, kind: str) -> None:
    project = bake(problem_type=kind, platform="databricks").project_path
    assert "was successful" in nox(project, "databricks")
