"""Stands in for Databricks' command line and the workspace behind it: a file of the stage.

It knows the commands that are used, writes each down, and refuses what the real one refuses: a job
without a login, a job or parameter that the deployed bundle does not have, a target that is not
deployed. Jobs end as the file says; what they do to the model is done to its versions and aliases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from gh import STAGE, permit, refuse

STATE = STAGE / "workspace.json"
# What the action that logs in has set, as the SDK's documentation of GitHub's OIDC has it.
LOGIN = {
    "DATABRICKS_AUTH_TYPE": "github-oidc",
    "DATABRICKS_CLIENT_ID": None,
    "DATABRICKS_HOST": None,
}
PAGE = "https://workspace.cloud.databricks.com/jobs"


def read() -> dict[str, Any]:
    """The workspace as it is."""
    fresh = {"calls": [], "deployed": {}, "versions": 0, "aliases": {}, "who": {}, "fails": []}
    return {**fresh, **(json.loads(STATE.read_text(encoding="utf-8")) if STATE.exists() else {})}


def require_login() -> None:
    """Refuse a job that has not logged in, or may not ask for the token with which it does."""
    for name, value in LOGIN.items():
        given = os.environ.get(name)
        if not given or value not in {None, given}:
            refuse(f"Error: default auth: cannot configure default credentials ({name})")
    permit("id-token", write=True)


def deploy(workspace: dict[str, Any], given: argparse.Namespace) -> None:
    """Upload the one wheel of dist/, which `build` must have left as it was."""
    bundle = yaml.safe_load(Path("databricks.yml").read_text(encoding="utf-8"))
    if given.target not in bundle["targets"]:
        refuse(f"Error: {given.target}: no such target")
    variables = {name: item.get("default") for name, item in bundle["variables"].items()}
    variables |= dict(text.split("=", 1) for text in given.var)
    command = bundle["targets"][given.target]["artifacts"]["wheel"]["build"]
    built = command.replace("${var.build}", variables["build"])
    if subprocess.run(["bash", "-c", built], check=False).returncode:
        refuse(f"Error: build failed wheel, error: exit status 1: {built}")
    wheels = sorted(Path("dist").glob("*.whl"))
    if len(wheels) != 1:
        refuse(f"Error: dist/*.whl matches {len(wheels)} files")
    content = yaml.safe_load(Path("resources/jobs.yml").read_text(encoding="utf-8"))
    jobs = content["resources"]["jobs"]
    workspace["deployed"][given.target] = {
        "wheel": hashlib.sha256(wheels[0].read_bytes()).hexdigest(),
        "jobs": {
            name: {
                "parameters": [item["name"] for item in job["parameters"]],
                "tasks": [task["task_key"] for task in job["tasks"]],
            }
            for name, job in jobs.items()
        },
    }


def start(workspace: dict[str, Any], given: argparse.Namespace) -> None:
    """Run a job and wait for its end."""
    deployed = workspace["deployed"].get(given.target) or refuse("Error: no deployment found")
    job = deployed["jobs"].get(given.key) or refuse(f"Error: no resource with key {given.key}")
    parameters = {}
    for word in given.parameters:
        name, _, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in job["parameters"]:
            refuse(f"Error: job {given.key} has no parameter {name}")
        parameters[name] = value
    if set(given.only) - set(job["tasks"]):
        refuse(f"Error: job {given.key} has no task {given.only}")
    print(f"Run URL: {PAGE}/{given.key}")
    if given.key in workspace["fails"]:
        refuse(f"Error: Task {job['tasks'][0]} failed!")
    happens(workspace, given.key, given.only, parameters)


def happens(workspace: dict[str, Any], job: str, only: list[str], given: dict[str, str]) -> None:
    """What a job that ends well does to the model."""
    aliases, number = workspace["aliases"], int(given.get("model_version") or 0)
    if job == "training":
        workspace["versions"] += 1
    if job == "deployment" and aliases.get("champion") != number:
        aliases["challenger"] = number
    if job == "deployment" and only != ["gates"]:
        if not given.get("who"):
            refuse("Error: Task approval failed!")
        aliases["champion"] = aliases.pop("challenger")
        workspace["who"][str(number)] = f"{given['who']}: {given['why']}"
    if job == "reject":
        if aliases.get("challenger") != number:
            refuse("Error: Task reject failed!")
        del aliases["challenger"]


def summary(workspace: dict[str, Any], given: argparse.Namespace) -> Any:
    """The resources of a target with their ids."""
    deployed = workspace["deployed"].get(given.target, {"jobs": {}})
    jobs = {name: {"id": name} for name in deployed["jobs"]}
    known = {"registered_models": {"model": {"id": f"{given.target}.schema.model"}}}
    known["volumes"] = {"state": {"id": f"{given.target}.schema.state"}}
    return {"resources": {"jobs": jobs, **(known if jobs else {})}}


def model(workspace: dict[str, Any], _: argparse.Namespace) -> Any:
    found = workspace["aliases"].items()
    return {"aliases": [{"alias_name": name, "version_num": number} for name, number in found]}


def versions(workspace: dict[str, Any], _: argparse.Namespace) -> Any:
    return [{"version": number} for number in range(1, workspace["versions"] + 1)]


def runs(workspace: dict[str, Any], _: argparse.Namespace) -> Any:
    return workspace.get("runs", [])


def copy(_: dict[str, Any], given: argparse.Namespace) -> None:
    """Copy what stands for the reports."""
    folder = Path(given.target_path)
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(f"of {given.source}", encoding="utf-8")


def main() -> None:
    words = sys.argv[1:]
    parser = argparse.ArgumentParser("databricks", allow_abbrev=False)
    groups = parser.add_subparsers(required=True)

    def group(name: str) -> Any:
        return groups.add_parser(name).add_subparsers(required=True)

    def verb(among: Any, name: str, act: Any) -> argparse.ArgumentParser:
        place: argparse.ArgumentParser = among.add_parser(name, allow_abbrev=False)
        place.set_defaults(act=act)
        place.add_argument("--output", choices=["json"])
        return place

    bundle = group("bundle")
    for name, act in (("deploy", deploy), ("run", start), ("summary", summary)):
        place = verb(bundle, name, act)
        place.add_argument("--target", required=True)
        if name == "deploy":
            place.add_argument("--var", action="append", default=[])
        if name == "run":
            place.add_argument("--only", type=lambda text: text.split(","), default=[])
            place.add_argument("key")
    place = verb(group("registered-models"), "get", model)
    place.add_argument("name")
    place.add_argument("--include-aliases", action="store_true", required=True)
    verb(group("model-versions"), "list", versions).add_argument("name")
    place = verb(group("jobs"), "list-runs", runs)
    for option in ("--job-id", "--start-time-from", "--start-time-to"):
        place.add_argument(option, required=True)
    place = verb(group("fs"), "cp", copy)
    place.add_argument("--recursive", action="store_true", required=True)
    place.add_argument("--overwrite", action="store_true", required=True)
    place.add_argument("source")
    place.add_argument("target_path")

    mark = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:mark])
    given.parameters = words[mark + 1 :]
    workspace = read()
    workspace["calls"].append(words)
    STATE.write_text(json.dumps(workspace), encoding="utf-8")  # also where it is refused
    require_login()
    answer = given.act(workspace, given)
    STATE.write_text(json.dumps(workspace), encoding="utf-8")
    if answer is not None:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
