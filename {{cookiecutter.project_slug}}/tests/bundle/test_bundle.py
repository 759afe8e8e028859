"""The bundle against its schema, the command line and the locks: nothing is run."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml
from databricks.bundles.core import Resource
from databricks.bundles.experiments import MlflowExperiment
from databricks.bundles.jobs import Job
from databricks.bundles.registered_models import RegisteredModel
from databricks.bundles.schemas import Schema
from databricks.bundles.secret_scopes import SecretScope
from databricks.bundles.volumes import Volume

from {{cookiecutter.package_name}} import cli, job
from {{cookiecutter.package_name}}.core.settings import described

from tests.bundle.jobs import needed, order, parameters
from tests.bundle.reading import COMMIT, ME, ROOT, TARGETS, files, read

CLASSES: dict[str, type[Any]] = {
    "experiments": MlflowExperiment,
    "jobs": Job,
    "registered_models": RegisteredModel,
    "schemas": Schema,
    "secret_scopes": SecretScope,
    "volumes": Volume,
}
OF_FILES = set("artifacts bundle include resources sync targets variables".split())
OF_TARGETS = set("artifacts default mode resources variables workspace".split())
TRIGGER = "job.trigger.time.iso_datetime"
TRIGGERED = "2024-11-01T06:00:00.000Z"


def resources(bundle: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for kind, named in bundle["resources"].items():
        for name, fields in named.items():
            yield kind, name, fields


def checked(kind: str, fields: dict[str, Any]) -> Resource:
    """A resource of the class that Databricks' own package has for it."""
    resource: Resource = CLASSES[kind].from_dict(copy.deepcopy(fields))
    return resource


def tasks(target: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for job_of_target in read(target)["resources"]["jobs"].values():
        for task in job_of_target["tasks"]:
            yield job_of_target, task


@pytest.mark.parametrize("target", TARGETS)
def test_the_schema_knows_every_field_and_value(target: str) -> None:
    for kind, _, fields in resources(read(target)):
        assert checked(kind, fields)


def test_the_schema_knows_every_field_before_references_are_filled() -> None:
    found = [(kind, name) for kind, name, fields in resources(files()) if checked(kind, fields)]
    assert {kind for kind, _ in found} == CLASSES.keys()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("jobs", {"pause": "PAUSED"}),
        ("jobs", {"tasks": [{"task_key": "x", "depends_on": [{"key": "y"}]}]}),
        ("schemas", {"grants": [{"principal": "x", "privileges": ["READ"]}]}),
        ("volumes", {"volume_type": "LOCAL"}),
    ],
)
def test_the_schema_refuses_faults(kind: str, fault: dict[str, Any]) -> None:
    _, _, fields = next(found for found in resources(read("dev")) if found[0] == kind)
    with pytest.raises(ValueError, match=r"Unexpected field|is not a valid"):
        checked(kind, fields | fault)


def test_files_and_targets_hold_what_a_bundle_may_hold() -> None:
    bundle = files()
    assert bundle.keys() <= OF_FILES
    for target in bundle["targets"].values():
        assert target.keys() <= OF_TARGETS
    assert tuple(bundle["targets"]) == TARGETS


def test_a_reference_that_leads_nowhere_is_found() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        read("dev", catalog="${resources.schemas.nowhere.name}")


@pytest.mark.parametrize("target", TARGETS)
def test_all_that_is_synchronized_or_installed_is_there(target: str) -> None:
    bundle = read(target)
    assert all((ROOT / path).is_dir() for path in bundle["sync"]["paths"])
    for found in bundle["resources"]["jobs"].values():
        for environment in found["environments"]:
            wheel, pins = environment["spec"]["dependencies"]
            assert wheel == "../dist/*.whl"
            assert (ROOT / "resources" / pins.removeprefix("-r ")).is_file()


@pytest.mark.parametrize("target", TARGETS)
def test_tasks_wait_for_tasks_that_are_there_and_have_an_environment(target: str) -> None:
    for found in read(target)["resources"]["jobs"].values():
        keys = {environment["environment_key"] for environment in found["environments"]}
        assert len(order(found)) == len(found["tasks"])
        assert {task["environment_key"] for task in found["tasks"]} <= keys


@pytest.mark.parametrize("target", TARGETS)
def test_the_command_line_takes_the_parameters_of_every_task(target: str) -> None:
    group = typer.main.get_command(cli.app)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    verbs = set()
    for of_job, task in tasks(target):
        called = task["python_wheel_task"]
        assert scripts[called["entry_point"]] == f"{called['package_name']}.job:main"
        given = {"model_version": "1", "who": "ada", "why": "It's better, --really"}
        deployed, *words = parameters(of_job, task, TRIGGERED, given)
        assert "=" in deployed
        # parsed by the group, then by the verb; neither is run
        with group.make_context(None, list(words)) as context:
            name, verb, rest = group.resolve_command(context, words)  # type: ignore[attr-defined]
            with verb.make_context(name, rest, parent=context) as parsed:
                assert parsed.params["env"] == target
                assert parsed.params.get("who") in {None, "ada", "deployment", "integration"}
                assert parsed.params.get("why") in {None, given["why"]}
                if as_of := parsed.params.get("as_of"):
                    assert cli.parse_moment(as_of).hour == 6
        verbs.add(name)
    wanted = "init ingest features trigger train deploy approval reject rollback predict tables"
    assert verbs >= set(wanted.split())


def test_parameters_that_the_command_line_does_not_know_are_found() -> None:
    group = typer.main.get_command(cli.app)
    with group.make_context(None, ["ingest", "--when", "now"]) as context:
        name, verb, rest = group.resolve_command(context, ["ingest", "--when", "now"])  # type: ignore[attr-defined]
        with pytest.raises(Exception, match="No such option: --when"):
            verb.make_context(name, rest, parent=context)


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_deployed_are_settings_and_names_of_this_target(target: str) -> None:
    bundle = read(target)
    model = bundle["resources"]["registered_models"]["model"]
    for found in bundle["resources"]["jobs"].values():
        (said,) = (item["default"] for item in found["parameters"] if item["name"] == "deployed")
        told = dict(line.split("=", 1) for line in said.splitlines())
        # in dev each person's names differ, and the code is told them
        levels = (model["catalog_name"], model["schema_name"], model["name"])
        assert told["mlflow.model"] == ".".join(levels)
        assert told["schema"] == ".".join(levels[:2])
        assert told["mlflow.experiment"] == bundle["resources"]["experiments"]["training"]["name"]
        assert told["commit"] == (f"{COMMIT}-dirty" if target == "dev" else COMMIT)
        settings = {key for key, _, _ in described()}
        assert told.keys() - {*job._VARIABLES, "secrets"} <= settings


@pytest.mark.parametrize("target", ["staging", "prod"])
def test_nobody_runs_production_as_themselves(target: str) -> None:
    bundle = read(target, service_principal="42")
    assert bundle["workspace"]["root_path"].startswith("/Workspace/Users/42/")
    started = {"staging": "integration", "prod": "loop"}[target]
    named = bundle["resources"]["jobs"]
    for name in (started, "training", "deployment", "reject", "rollback"):
        assert named[name]["run_as"] == {"service_principal_name": "42"}


def test_what_is_shared_is_built_of_committed_code_or_was_fetched() -> None:
    built = {target: read(target)["artifacts"]["wheel"]["build"] for target in TARGETS}
    unchanged = 'test -z "$(git status --porcelain)"'
    made = "python3 bootstrap.py build"
    assert built == {
        "dev": made,
        "staging": f"{unchanged} && {made}",
        "prod": f"{unchanged} && {made}",
    }
    assert read("prod", build="true")["artifacts"]["wheel"]["build"] == f"{unchanged} && true"


def test_in_dev_nothing_is_shared_between_two_people() -> None:
    found = read("dev")["resources"]
    shared = ("schemas", "registered_models", "experiments", "secret_scopes")
    named = [resource["name"] for kind in shared for resource in found[kind].values()]
    assert [name for name in named if ME not in name] == []


def test_nothing_but_a_person_starts_the_approval_again() -> None:
    deployment = read("prod")["resources"]["jobs"]["deployment"]
    (task,) = (task for task in deployment["tasks"] if task["task_key"] == job.APPROVAL_TAG)
    assert task["max_retries"] == 0
    assert task["disable_auto_optimization"] is True


@pytest.mark.parametrize("target", TARGETS)
def test_only_approvers_start_what_decides(target: str) -> None:
    jobs = read(target)["resources"]["jobs"]
    starting = {
        name: [item["group_name"] for item in found["permissions"] if "MANAGE" in item["level"]]
        for name, found in jobs.items()
    }
    decided = {"deployment", "reject", "rollback"}
    assert starting == {name: ["model-approvers"] if name in decided else [] for name in jobs}


@pytest.mark.parametrize("target", TARGETS)
def test_training_names_the_job_that_takes_its_version_up(target: str) -> None:
    jobs = read(target)["resources"]["jobs"]
    (named,) = (task for task in jobs["training"]["tasks"] if task["task_key"] == "trigger")
    (train,) = (task for task in jobs["training"]["tasks"] if task["task_key"] == "train")
    assert named["python_wheel_task"]["parameters"][-2:] == ["--job", "jobs-deployment"]
    assert "trigger" in needed(train)
    # what Unity Catalog gives to a deployment job, and requires it to have
    given = {item["name"] for item in jobs["deployment"]["parameters"]}
    assert {"model_name", "model_version"} <= given


def test_integration_run_again_does_not_pass_over_a_version_that_was_refused() -> None:
    integration = read("staging")["resources"]["jobs"]["integration"]["tasks"]
    (deploy,) = (task for task in integration if task["task_key"] == "deploy")
    # `--new` would look for others, find none, and end well
    assert "--new" not in deploy["python_wheel_task"]["parameters"]
    after = {task["task_key"] for task in integration if "deploy" in needed(task)}
    assert after == {"predict"}


@pytest.mark.parametrize("target", TARGETS)
def test_runs_queue_and_take_their_moment_from_the_trigger(target: str) -> None:
    for found in read(target)["resources"]["jobs"].values():
        assert found["queue"] == {"enabled": True}
        defaults = {item["name"]: item["default"].strip("{}") for item in found["parameters"]}
        assert defaults.get("as_of", TRIGGER) == TRIGGER
        for task in found["tasks"]:
            words = task["python_wheel_task"]["parameters"]
            moments = {words[at + 1] for at, word in enumerate(words) if word == "--as-of"}
            assert {moment.strip("{}") for moment in moments} <= {"job.parameters.as_of"}


def test_only_production_has_a_schedule() -> None:
    scheduled = {
        (target, name)
        for target in TARGETS
        for name, found in read(target)["resources"]["jobs"].items()
        if "schedule" in found
    }
    assert scheduled == {("prod", "loop")}


def test_scientists_write_in_dev_alone() -> None:
    writing = {"MODIFY", "CREATE_TABLE", "WRITE_VOLUME"}
    for target in TARGETS:
        grants = read(target)["resources"]["schemas"]["project"]["grants"]
        (rights,) = (set(g["privileges"]) for g in grants if g["principal"] == "data-scientists")
        assert {"SELECT", "READ_VOLUME"} <= rights
        assert (writing <= rights) == (target == "dev")
        assert bool(writing & rights) == (target == "dev")


def test_jobs_can_have_clusters_as_the_page_says() -> None:
    # given what the page puts in the place of serverless machines, at the first job and its task
    page = (ROOT / "docs" / "databricks.md").read_text(encoding="utf-8")
    of_job, of_task = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    for found in read("prod")["resources"]["jobs"].values():
        # when
        del found["environments"]
        for task in found["tasks"]:
            del task["environment_key"]
        tasks = [task | of_task for task in found["tasks"]]
        changed = found | of_job | {"tasks": tasks}
        # then
        assert checked("jobs", changed)
    (cluster,) = of_job["job_clusters"]
    assert of_task["job_cluster_key"] == cluster["job_cluster_key"]
    serverless = files()["resources"]["jobs"]["init"]["environments"][0]["spec"]["dependencies"]
    assert [next(iter(library.values())) for library in of_task["libraries"]] == [
        path.removeprefix("-r ") for path in serverless
    ]


def test_all_jobs_and_tasks_are_as_the_first_one_is() -> None:
    text = (ROOT / "resources" / "jobs.yml").read_text(encoding="utf-8")
    for said_once in ("environments:", "environment_key: wheel\n          python", "entry_point:"):
        assert text.count(said_once) == 1
    # Databricks' command line merges what an alias names, and nothing else
    assert set(re.findall(r"<<: (.)", text)) == {"*"}


def test_tasks_install_what_is_locked() -> None:
    pinned = versions("serverless")
    assert pinned
    assert pinned <= versions("databricks")


def versions(name: str) -> set[str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return set(re.findall(r"^(\S+==\S+)", text, re.MULTILINE))
