"""`ci: gitlab`: the same contract as one pipeline, looked at and executed, green and red."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import test_structure
import yaml
from post_gen_project import PARTS
from pytest_cookies.plugin import Cookies
from stage import clean
from support import NASTY, Bake, checked, commit, execute, files_in
from test_ci_only import render_into

BIN = Path(sys.executable).parent
NOTES = "/projects/5/merge_requests/3/notes"
# What stands in for the commands of a project: their own tests and act run the real ones.
TOOL = """
import json, os, pathlib, sys

task = sys.argv[1]
written = pathlib.Path
if task == "unit":
    name = f"reports/unit-{os.environ['PYTHON']}.xml"
    fault = "<failure/>" if written("broken").exists() else ""
    case = f"<testcase classname='t' name='test_it'>{fault}</testcase>"
    written("reports").mkdir(exist_ok=True)
    written(name).write_text(f"<testsuite>{case}</testsuite>")
    sys.exit(bool(fault))
elif task == "score":
    written(os.environ["SCORES"]).write_text(written("model.txt").read_text())
elif task == "compare":
    folder = written(os.environ["SCORES"])
    head, base = (float((folder / f"{name}.parquet").read_text()) for name in ("head", "base"))
    verdict = "worse" if head < base else "alike"
    row = {"metric": "auc", "head": [head] * 3, "base": [base] * 3, "gain": [head - base] * 3}
    said = {"verdict": verdict, "sentence": f"The model is {verdict}.", "opponent": "target",
            "method": "m", "metrics": [row]}
    (folder / "comparison.json").write_text(json.dumps(said))
    sys.exit(verdict == "worse")
elif task == "build":
    written("dist").mkdir()
    written("dist/w-1-py3-none-any.whl").write_text("wheel")
else:
    (wheel,) = written("dist").glob("*.whl")
    words = [os.environ.get(name, "") for name in ("VERSION", "WHO", "WHY")]
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(" ".join([task, wheel.read_text(), *words]).strip() + "\\n")
    if task == "candidate":
        written(sys.argv[2]).write_text("waiting=3\\n")
"""
TASKS = (
    "unit",
    "score",
    "compare",
    "build",
    "staging",
    "candidate",
    "daily",
    "approve",
    "rollback",
)
OUTSIDE = re.compile(r"\]\(https?:[^)]*\)")  # addresses of other people's pages


def texts(project: Path) -> dict[str, str]:
    """Contents of a rendering's text files but the locks, without addresses."""
    return {
        name: OUTSIDE.sub("", content.decode())
        for name, content in files_in(project).items()
        if not name.endswith((".png", ".txt"))
    }


def test_no_rendering_has_a_line_of_the_other_forge(bake: Bake) -> None:
    for chosen, other in (("github", r"gitlab|glab\b"), ("gitlab", r"github|\bgh\b|zizmor\.yml")):
        rendered = texts(bake(ci=chosen).project_path)
        found = [name for name, text in rendered.items() if re.search(other, text, re.IGNORECASE)]
        found += [name for name in rendered if re.search(other, name, re.IGNORECASE)]
        assert found == [], chosen


def test_a_rendering_looks_like_any_other(bake: Bake) -> None:
    project = bake(ci="gitlab", **NASTY).project_path
    looks = (
        *(test_structure.test_no_jinja_is_left, test_structure.test_no_scars),
        *(test_structure.test_rendered_files_are_valid, test_structure.test_no_empty_folder),
        test_structure.test_every_text_file_ends_in_one_newline,
        test_structure.test_locks_are_hashed_and_agree,
    )
    for look in looks:
        look(project)
    test_structure.test_no_name_makes_a_line_too_long(partial(bake, ci="gitlab"))


def test_every_file_for_the_other_forge_is_named(template: Path) -> None:
    project = template / "{{cookiecutter.project_slug}}"
    there = {name for name in files_in(project) if name.startswith((".github/", "docs/login/"))}
    assert there <= set(PARTS["ci"]["github"])


@pytest.fixture
def pipeline(bake: Bake) -> dict[str, Any]:
    text = (bake(ci="gitlab").project_path / ".gitlab-ci.yml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert isinstance(content, dict)
    return content


def test_the_pipeline_fits_the_schema_and_no_fault_does(bake: Bake, tmp_path: Path) -> None:
    project = bake(ci="gitlab", **NASTY, project_slug="x").project_path
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci")
    execute(*check, ".gitlab-ci.yml", ".gitlab/own.yml", cwd=project)
    text = (project / ".gitlab-ci.yml").read_text(encoding="utf-8")
    faults = {
        "interruptible: true": "interruptible: maybe",
        "resource_group: staging-tables": "resource_group: 1",
    }
    for before, after in faults.items():
        assert before in text
        wrong = tmp_path / "wrong.yml"
        wrong.write_text(text.replace(before, after), encoding="utf-8")
        with pytest.raises(AssertionError):
            execute(*check, wrong, cwd=project)


def test_on_databricks_jobs_log_in_by_a_token_of_their_own(bake: Bake) -> None:
    project = bake(ci="gitlab", platform="databricks", **NASTY).project_path
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci")
    execute(*check, ".gitlab-ci.yml", ".gitlab/own.yml", cwd=project)
    own = yaml.safe_load((project / ".gitlab" / "own.yml").read_text(encoding="utf-8"))
    login = own[".databricks"]
    assert login["id_tokens"].keys() == {"DATABRICKS_OIDC_TOKEN"}
    assert "export DATABRICKS_AUTH_TYPE=env-oidc" in login["before_script"]
    for place in (".staging", ".production"):
        assert own[place] == {"extends": ".databricks"}
    assert "id_tokens" not in own[".merge-request"]
    # and the jobs that touch an environment are those that log in
    pipeline = yaml.safe_load((project / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    joined = {name: job for name, job in pipeline.items() if isinstance(job, dict)}
    assert ".staging" in joined["staging"]["extends"]
    assert ".production" in joined[".on-production"]["extends"]


def test_on_databricks_both_forges_have_one_contract_and_no_line_of_each_other(bake: Bake) -> None:
    contracts = []
    for forge, other in (("github", "gitlab"), ("gitlab", "github")):
        project = bake(ci=forge, platform="databricks").project_path
        contracts.append((project / "ci" / "commands.toml").read_text(encoding="utf-8"))
        found = [name for name, text in texts(project).items() if other in text.lower()]
        assert found == [], forge
    assert contracts[0] == contracts[1]


def test_every_task_of_the_contract_is_run(pipeline: dict[str, Any], bake: Bake) -> None:
    contract = (bake(ci="gitlab").project_path / "ci" / "commands.toml").read_text("utf-8")
    tasks = set(re.findall(r"^\[(\w+)\]", contract, re.MULTILINE)) - {"advice"}
    text = yaml.dump(pipeline)
    named = {
        job.get("variables", {}).get("TASK") for job in pipeline.values() if isinstance(job, dict)
    }
    named |= set(re.findall(r"ci\.run (\w+)", text))
    assert tasks <= named


def test_what_touches_production_comes_from_its_branch_and_its_release(
    pipeline: dict[str, Any],
) -> None:
    mine = {
        name: job
        for name, job in pipeline.items()
        if isinstance(job, dict) and job.get("extends") in (".on-production", ".decide")
    }
    assert set(mine) == {
        *(".decide", "candidate", "daily", "deploy", "init", "approve", "rollout", "reject"),
        "rollback",
    }
    base = pipeline[".on-production"]
    assert base["resource_group"] == "production-tables"
    assert base["extends"] == [".environment", ".production"]
    assert "python3 -m ci.gitlab fetch" in base["script"]
    assert pipeline["staging"]["resource_group"] == "staging-tables"
    # decisions wait for a person, and for no training
    assert pipeline[".decide"]["resource_group"] == "production-decisions"
    assert {rule["when"] for rule in pipeline[".decide"]["rules"]} == {"manual"}
    for name, job in mine.items():
        for rule in job.get("rules", ()):
            assert '$CI_COMMIT_BRANCH == "release" && $PRODUCTION == "on"' in rule["if"], name
        assert "script" not in job, name


def test_workflows_join_a_repository_for_gitlab_too(template: Path, tmp_path: Path) -> None:
    repository = tmp_path / "theirs"
    repository.mkdir()
    execute("git", "init", "--quiet", cwd=repository)
    render_into(repository, template, tmp_path, ci="gitlab")
    added = set(files_in(repository))
    assert {".gitlab-ci.yml", ".gitlab/own.yml", "ci/gitlab.py", "docs/ci.md"} <= added
    page = (repository / "docs" / "ci.md").read_text(encoding="utf-8")
    assert not re.search(r"github|\.rulesets|Actions", page, re.IGNORECASE)
    assert not any(".github" in name for name in added)


# Executed


@dataclass
class GitLab:
    """What a project's interface knows."""

    notes: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, header: str, content: bytes) -> Any:
        """The answer to a request with this token."""
        if method != "GET":
            self.changes.append(f"{method} {path}")
        if path == "/user" or path.startswith(NOTES):
            assert header == "PRIVATE-TOKEN note"
            return self.note(method, path, content)
        assert header == "JOB-TOKEN job"
        if path.startswith("/projects/5/packages/generic/flight-delays/"):
            if method == "PUT":
                assert path not in self.files, "duplicates are not allowed"
                self.files[path] = content
                return {"message": "201 Created"}
            return self.files[path]
        if method == "POST":
            assert path == "/projects/5/releases"
            made = json.loads(content)
            assert set(made) == {"name", "tag_name", "description", "assets"}
            self.releases[made["tag_name"]] = made
            return made
        return self.releases[path.removeprefix("/projects/5/releases/")]

    def note(self, method: str, path: str, content: bytes) -> Any:
        if path == "/user":
            return {"id": 1}
        if method == "POST":
            made = {"id": len(self.notes), "author": {"id": 1}, **json.loads(content)}
            self.notes.append(made)
            return made
        if method == "PUT":
            (known,) = (it for it in self.notes if path == f"{NOTES}/{it['id']}")
            known.update(json.loads(content))
            return known
        return self.notes


def handler(gitlab: GitLab) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            names = ("PRIVATE-TOKEN", "JOB-TOKEN")
            header = " ".join(
                f"{name} {self.headers[name]}" for name in names if self.headers[name]
            )
            try:
                answer = gitlab.answer(self.command, parts.path, header, content)
                if "page=" in parts.query and "&page=1" not in parts.query:
                    answer = []
            except (AssertionError, KeyError, ValueError) as error:
                self.send_response(404)
                answer = {"message": repr(error)}
            else:
                self.send_response(200)
            is_bytes = isinstance(answer, bytes)
            kind = "application/octet-stream" if is_bytes else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(answer if is_bytes else json.dumps(answer).encode())

        do_GET = do_POST = do_PUT = reply  # noqa: N815 names of the base class

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@dataclass
class Place:
    """A project's repository, the GitLab that it lives on, and the program that runs its jobs."""

    folder: Path
    gitlab: GitLab
    port: int
    count: int = 0

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def journal(self) -> list[str]:
        """What the tasks of environments have noted: task, wheel, version, who, why."""
        path = self.folder / "journal"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def git(self, *arguments: str) -> str:
        return execute("git", *arguments, cwd=self.work).strip()

    def run(self, *manual: str, **variables: str) -> tuple[dict[str, str], str]:
        """Run a pipeline of the commit that the work stands on; returns how jobs ended."""
        self.count += 1
        place = self.folder / f"run{self.count}"
        execute("git", "clone", "--quiet", self.work, place, cwd=self.folder)
        execute("git", "remote", "set-head", "origin", "--auto", cwd=place)
        given = {
            "CI_API_V4_URL": f"http://127.0.0.1:{self.port}",
            "CI_JOB_TOKEN": "job",
            "CI_PROJECT_ID": "5",
            "CI_PROJECT_NAME": "flight-delays",
            "JOURNAL": str(self.folder / "journal"),
            "GITLAB_USER_LOGIN": "ann",
            "PIP_CACHE_DIR": str(self.folder / "cache"),
            "UV_CACHE_DIR": str(self.folder / "cache"),
            **variables,
        }
        options = [part for item in given.items() for part in ("--variable", "=".join(item))]
        chosen = [part for job in manual for part in ("--manual", job)]
        if "CI_COMMIT_TAG" in given:
            options += ["--unset-variable", "CI_COMMIT_BRANCH"]
        command = [
            *(os.environ["GITLAB_CI_LOCAL"], "--no-color"),
            *("--force-shell-executor", "--shell-isolation", "--no-artifacts-to-source"),
            *("--home", str(self.folder / "home"), "--concurrency", "2", *options, *chosen),
        ]
        output = said(command, place)
        if "CI_MERGE_REQUEST_IID" in given and "ready  " not in output:
            # Unlike GitLab, it starts nothing after a job that was left out.
            output += said([*command, "ready"], place)
        found = re.findall(
            r"^ (PASS|FAIL|WARN)  (?!Avoid )(\S.*?)(?:  +.*)? *$", output, re.MULTILINE
        )
        return {job: ended for ended, job in found}, output


def said(command: list[str], place: Path) -> str:
    """What a command that may fail prints."""
    done = subprocess.run(
        command,
        cwd=place,
        env=clean(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def place(
    cookies_session: Cookies, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A project on a GitLab of its own, whose tasks are quick."""
    project = checked(cookies_session, template)(ci="gitlab").project_path
    gitlab = GitLab()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(gitlab))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made = Place(tmp_path_factory.mktemp("gitlab"), gitlab, server.server_port)
    execute("git", "clone", "--quiet", project, made.work, cwd=made.folder)
    contract = made.work / "ci" / "commands.toml"
    names = re.findall(r"^\[(\w+)\]", contract.read_text(encoding="utf-8"), re.MULTILINE)
    runs = {name: [f"python3 tool.py {name} $OUTPUTS"] if name in TASKS else [] for name in names}
    text = "".join(
        f"[{name}]\nrun = {json.dumps(run)}\n" for name, run in runs.items() if name != "advice"
    )
    contract.write_text(f"{text}[advice]\n", encoding="utf-8")
    (made.work / "tool.py").write_text(TOOL, encoding="utf-8")
    (made.work / "model.txt").write_text("0.7", encoding="utf-8")
    changelog = made.work / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [1.0.0]\n\nAll new.\n", encoding="utf-8")
    commit(made.work, "quick")
    yield made
    server.shutdown()
    server.server_close()


def propose(place: Place, **more: str) -> tuple[dict[str, str], str]:
    """What a merge request of the commit that the work stands on runs."""
    base = place.git("merge-base", "HEAD", "main")
    given = {
        "CI_PIPELINE_SOURCE": "merge_request_event",
        "CI_MERGE_REQUEST_IID": "3",
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
        "NOTE_TOKEN": "note",
        **more,
    }
    return place.run(**given)


UNITS = {f"unit: [{python}]" for python in ("3.11", "3.12", "3.13")}


@pytest.mark.act
def test_a_good_merge_request_is_green_and_has_one_note(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "change", "main")
    jobs, output = propose(place)
    names = {"lint", "typing", *UNITS, "integration", "model", "ready"}
    assert jobs == dict.fromkeys(names, "PASS"), output
    (note,) = place.gitlab.notes
    assert "## ✅ Ready to merge" in note["body"]
    for python in ("3.11", "3.12", "3.13"):
        assert f"| unit-{python} | 1 | 0 | 0 |" in note["body"], note["body"]
    assert "The model is alike" in note["body"]


@pytest.mark.act
def test_a_fault_is_red_and_the_note_is_brought_up_to_date(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "change", "main")
    (place.work / "broken").touch()
    commit(place.work, "A slip")
    jobs, output = propose(place)
    red = dict.fromkeys((*UNITS, "ready"), "FAIL")
    assert jobs == {"lint": "PASS", "typing": "PASS", **red}, output
    (note,) = place.gitlab.notes
    assert "## ❌ Not ready to merge: unit, integration, model" in note["body"]
    assert "test\\_it" in note["body"]
    assert place.gitlab.changes[-1] == f"PUT {NOTES}/0"


@pytest.mark.act
def test_a_worse_model_is_red_unless_somebody_says_why(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "change", "main")
    (place.work / "model.txt").write_text("0.6", encoding="utf-8")
    commit(place.work, "Worse")
    jobs, output = propose(place)
    assert (jobs["model"], jobs["ready"]) == ("WARN", "FAIL"), output
    why = {
        "CI_MERGE_REQUEST_LABELS": "model-override",
        "CI_MERGE_REQUEST_DESCRIPTION": "Model override: a leak is gone",
    }
    jobs, output = propose(place, **why)
    assert (jobs["model"], jobs["ready"]) == ("WARN", "PASS"), output
    assert "was overridden: a leak is gone" in place.gitlab.notes[0]["body"]


@pytest.mark.act
def test_a_tag_passes_staging_and_is_a_release(place: Place) -> None:
    place.git("checkout", "--quiet", "main")
    place.git("tag", "--annotate", "v1.0.0", "--message", "v1.0.0")
    jobs, output = place.run(CI_PIPELINE_SOURCE="push", CI_COMMIT_TAG="v1.0.0")
    assert jobs == dict.fromkeys(("build", "staging", "release"), "PASS"), output
    assert place.journal[-1] == "staging wheel  ann"
    release = place.gitlab.releases["v1.0.0"]
    assert release["description"].startswith("All new.\n")
    assert {it["name"] for it in release["assets"]["links"]} == {"w-1-py3-none-any.whl", "run.txt"}


@pytest.mark.act
def test_release_asks_and_a_person_promotes_and_rolls_back(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "release", "main")
    on = {"CI_PIPELINE_SOURCE": "push", "PRODUCTION": "on"}
    jobs, output = place.run(**on)
    assert jobs == {"candidate": "PASS"}, output
    # then a person starts a job: the version that waits comes from the candidate
    jobs, output = place.run("approve", "rollback", **on)
    assert jobs == dict.fromkeys(("candidate", "approve", "rollback"), "PASS"), output
    decided = [line for line in place.journal if line.startswith(("approve", "rollback"))]
    assert [line.split(" Pipeline")[0] for line in sorted(decided)] == [
        "approve wheel 3 ann",
        "rollback wheel  ann",
    ]
    # and a night does what a night does
    jobs, output = place.run(CI_PIPELINE_SOURCE="schedule", PRODUCTION="on")
    assert jobs == {"daily": "PASS"}, output


@pytest.mark.act
def test_day_one_is_a_demo(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "release", "main")
    jobs, output = place.run(CI_PIPELINE_SOURCE="push")
    assert jobs == {"demo": "PASS"}, output
    assert "PRODUCTION is not on" in output


@pytest.mark.act
def test_what_staging_did_not_test_is_not_released(place: Place) -> None:
    place.git("checkout", "--quiet", "-B", "release", "main")
    on = {"CI_PIPELINE_SOURCE": "push", "PRODUCTION": "on"}
    (name,) = (name for name in place.gitlab.files if name.endswith(".whl"))
    place.gitlab.files[name] = b"another"
    jobs, output = place.run(**on)
    assert jobs == {"candidate": "FAIL"}, output
    assert "is not the wheel that staging tested" in output
    (place.work / "model.txt").write_text("0.8", encoding="utf-8")
    commit(place.work, "Past staging")
    jobs, output = place.run(**on)
    assert jobs == {"candidate": "FAIL"}, output
    assert "This commit is no release" in output
