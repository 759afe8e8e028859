"""A stage for workflows: act in host mode, stand-ins for actions, a GitHub on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import SystemRandom
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from support import execute

PARTS = Path(__file__).with_name("stage")
REPOSITORY = "acme/flight-delays"
RUN = f"https://github.com/{REPOSITORY}/actions/runs/"
CREATED = "2026-01-01T05:06:07Z"  # when every run was started
TOKEN = "the-token-of-the-job"  # noqa: S105 of the stage's own server
PATIENCE = 300.0  # seconds
RELEASES = ("v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0")
# The suites have tests of their own; here a few of them are enough.
KEPT: dict[str, set[str]] = {
    "unit": {"test_settings.py"},
    "problem": set(),
    "integration": set(),
    "gates": set(),
    "kafka": {"broker.py"},  # which a benchmark uses
}
# What of an action's inputs its stand-in reads, and with what it runs.
STAND_INS: dict[str, tuple[str, dict[str, str]]] = {
    "actions/checkout": (
        "bash -euo pipefail checkout.sh",
        {"PATH": "path:.", "REF": "ref", "DEPTH": "fetch-depth:1"},
    ),
    "actions/setup-python": ("bash -euo pipefail python.sh", {"VERSION": "python-version"}),
    "actions/cache": ("true", {}),
    "actions/upload-artifact": (
        "python3 upload.py",
        {
            "NAME": "name",
            "PATH": "path",
            "NONE": "if-no-files-found:warn",
            "HIDDEN": "include-hidden-files:false",
        },
    ),
    "actions/download-artifact": (
        "python3 download.py",
        {
            "NAME": "name",
            "PATH": "path:.",
            "PATTERN": "pattern",
            "RUN": "run-id",
            "TOKEN": "github-token",
        },
    ),
    "actions/attest-build-provenance": (
        "bash -euo pipefail attest.sh",
        {"SUBJECT": "subject-path"},
    ),
    "databricks/setup-cli": ("bash -euo pipefail databricks.sh", {}),
}


@dataclass
class GitHub:
    """What a repository's interface knows, and what it was asked that it does not understand."""

    origin: Path = Path()
    issues: list[dict[str, Any]] = field(default_factory=list)
    comments: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    releases: dict[str, dict[str, Any]] = field(default_factory=dict)
    approvals: list[dict[str, Any]] = field(default_factory=list)
    started: list[dict[str, Any]] = field(default_factory=list)
    changes: list[tuple[str, str]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Any:
        """The answer to a request, or nothing where GitHub would refuse it."""
        routes: dict[tuple[str, str], Callable[..., Any]] = {
            ("GET", r"/issues"): lambda: [
                issue for issue in self.issues if issue["state"] == query["state"][0]
            ],
            ("POST", r"/issues"): lambda: self.open(body),
            ("PATCH", r"/issues/(\d+)"): lambda number: self.close(int(number), body),
            ("GET", r"/issues/(\d+)/comments"): lambda number: self.comments.get(int(number), []),
            ("POST", r"/issues/(\d+)/comments"): lambda number: self.comment(int(number), body),
            ("PATCH", r"/issues/comments/(\d+)"): lambda number: self.edit(int(number), body),
            ("GET", r"/pulls/(\d+)"): lambda number: self.pulls[int(number)],
            ("GET", r"/actions/runs/(\d+)/approvals"): lambda _: self.approvals,
            ("GET", r"/actions/runs/(\d+)"): lambda _: {"created_at": CREATED},
            ("POST", r"/actions/workflows/([\w-]+\.yml)/dispatches"): lambda name: self.dispatch(
                name, body
            ),
            ("GET", r"/tags"): self.tags,
            ("POST", r"/statuses/([0-9a-f]{40})"): lambda commit: self.record(commit, body),
            # The newest comes first.
            ("GET", r"/commits/([0-9a-f]{40})/statuses"): lambda commit: self.statuses.get(
                commit, []
            )[::-1],
            ("POST", r"/releases"): lambda: self.release(body),
            ("GET", r"/releases/tags/(.+)"): lambda tag: self.releases[tag],
        }
        for (verb, pattern), reply in routes.items():
            if verb == method and (found := re.fullmatch(f"/repos/{REPOSITORY}{pattern}", path)):
                if method != "GET":
                    self.changes.append((method, path.removeprefix(f"/repos/{REPOSITORY}")))
                return reply(*found.groups())
        raise KeyError(path)

    def dispatch(self, name: str, body: Any) -> None:
        """Start a workflow as it is on that branch."""
        assert set(body) == {"ref", "inputs"}
        branch = f"refs/heads/{body['ref']}"
        source = execute("git", "show", f"{branch}:.github/workflows/{name}", cwd=self.origin)
        known = yaml.safe_load(source)[True]["workflow_dispatch"] or {}
        inputs = known.get("inputs", {})
        assert set(body["inputs"]) <= set(inputs), "Unexpected inputs provided"
        for key, declared in inputs.items():
            given = body["inputs"].get(key, declared.get("default"))
            assert given is not None or not declared.get("required"), f"{key} is required"
            assert given in declared.get("options", [given]), f"{key} is not in the list"
        self.started.append({"workflow": name, **body})

    def tags(self) -> Any:
        """Tags with the commits that they lead to."""
        listed = execute(
            *("git", "for-each-ref", "--format=%(refname:short) %(objectname) %(*objectname)"),
            "refs/tags",
            cwd=self.origin,
        )
        rows = [line.split() for line in listed.splitlines()]
        return [{"name": row[0], "commit": {"sha": row[-1]}} for row in rows]

    def record(self, commit: str, body: Any) -> Any:
        """A status of a commit; none is ever changed or removed."""
        assert set(body) == {"state", "context", "description"}
        assert body["state"] in ("error", "failure", "pending", "success")
        assert len(body["description"]) <= 140
        status = {**body, "creator": {"login": "github-actions[bot]"}}
        self.statuses.setdefault(commit, []).append(status)
        return status

    def release(self, body: Any) -> Any:
        assert body["tag_name"] in [tag["name"] for tag in self.tags()], "no such tag"
        assert body["tag_name"] not in self.releases, "a release of this tag exists already"
        self.releases[body["tag_name"]] = body
        return body

    def open(self, body: Any) -> Any:
        assert set(body) == {"title", "body"}
        assert RUN in body["body"], "no link to the run"
        self.issues.append({"number": 100 + len(self.issues), "state": "open", **body})
        return self.issues[-1]

    def close(self, number: int, body: Any) -> Any:
        assert body == {"state": "closed"}
        (issue,) = (issue for issue in self.issues if issue["number"] == number)
        assert issue["state"] == "open"
        issue.update(body)
        return issue

    def comment(self, number: int, body: Any) -> Any:
        assert set(body) == {"body"}
        assert RUN in body["body"], "no link to the run"
        comments = self.comments.setdefault(number, [])
        comments.append({"id": 1000 * number + len(comments), "user": {"type": "Bot"}, **body})
        return comments[-1]

    def edit(self, number: int, body: Any) -> Any:
        assert set(body) == {"body"}
        assert RUN in body["body"], "no link to the run"
        (comment,) = (found for found in self.comments[number // 1000] if found["id"] == number)
        comment.update(body)
        return comment


def handler(github: GitHub) -> type[BaseHTTPRequestHandler]:
    """Serve it over HTTP; what is not as GitHub wants it is refused and remembered."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                assert self.headers["Authorization"] == f"Bearer {TOKEN}", "wrong token"
                assert (self.command == "GET") == (not content), (
                    "a body for a question, or none for a change"
                )
                body = json.loads(content) if content else None
                query = parse_qs(parts.query)
                answer = github.answer(self.command, parts.path, query, body)
                if int(query.get("page", ["1"])[0]) > 1:
                    answer = []
            except (AssertionError, KeyError, ValueError) as error:
                github.complaints.append(f"{self.command} {self.path}: {error!r}")
                self.send_response(422)
                answer = {"message": str(error)}
            else:
                self.send_response(
                    204 if answer is None else 201 if self.command == "POST" else 200
                )
            self.end_headers()
            self.wfile.write(b"" if answer is None else json.dumps(answer).encode())

        do_GET = do_POST = do_PATCH = reply  # noqa: N815 names of the base class

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@dataclass(frozen=True)
class Run:
    """How a workflow ended: the result of each job that ran, and all that was printed."""

    id: int
    jobs: dict[str, str]
    output: str


@dataclass
class Stage:
    """A repository with branches, a runner, and a GitHub."""

    folder: Path
    act: Path
    github: GitHub = field(default_factory=GitHub)
    port: int = 0
    count: int = 0

    @property
    def work(self) -> Path:
        """Where the stage itself changes and commits files."""
        return self.folder / "work"

    @property
    def address(self) -> dict[str, str]:
        """Where the scripts of the project find the stage's GitHub."""
        return {"GITHUB_API_URL": f"http://127.0.0.1:{self.port}", "GITHUB_REPOSITORY": REPOSITORY}

    def build(self, project: Path) -> None:
        """Put the project into a repository, and the stand-ins and the server in place."""
        shutil.copytree(project, self.work, ignore=shutil.ignore_patterns(".git"))
        self.github.origin = self.folder / "origin.git"
        execute("git", "init", "--quiet", "--bare", self.github.origin, cwd=self.folder)
        # As GitHub does: a commit can be fetched by its name alone.
        anything = ("uploadpack.allowAnySHA1InWant", "true")
        execute("git", "config", *anything, cwd=self.github.origin)
        for path in (self.work / ".github" / "workflows").iterdir():
            # Which act does not know yet, nor does it hold jobs to groups at all.
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r"\n +queue: max", "", text), encoding="utf-8")
        self.git("init", "--quiet")
        self.git("remote", "add", "origin", str(self.folder / "origin.git"))
        for action, (command, inputs) in STAND_INS.items():
            place = self.folder / "actions" / action
            place.mkdir(parents=True)
            (place / "action.yml").write_text(
                json.dumps(stand_in(action, command, inputs)), encoding="utf-8"
            )
        # On the PATH of every step is `gh`; an action puts the other there.
        for name, folder in (("gh", "bin"), ("databricks", "databricks")):
            program = self.folder / folder / name
            program.parent.mkdir()
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PARTS / name}.py" "$@"\n')
            program.chmod(0o755)
        # act may lose what a step says right before it fails: it must not end at once.
        trap = "trap 'code=$?; [ $code = 0 ] || sleep 1; exit $code' EXIT\n"
        (self.folder / "bash_env").write_text(trap, encoding="utf-8")
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self.github))
        self.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def checkout(self, name: str, branch: str) -> Path:
        """A clone of the project outside any run, whose environments are those of the jobs."""
        place = self.folder / name
        execute(
            "git",
            "clone",
            "--quiet",
            "--branch",
            branch,
            self.folder / "origin.git",
            place,
            cwd=self.folder,
        )
        given = {"STAGE": str(self.folder), "INPUT_VERSION": "3.12", "GITHUB_PATH": os.devnull}
        execute("bash", "-euo", "pipefail", PARTS / "python.sh", cwd=place, **given)
        return place

    def git(self, *arguments: str) -> str:
        """Run git in the work folder."""
        return execute("git", *arguments, cwd=self.work).strip()

    def commit(self, branch: str, message: str, **changed: str) -> str:
        """Write files (path and text) and push all that changed to a branch; returns the commit."""
        self.git("symbolic-ref", "HEAD", f"refs/heads/{branch}")
        for name, text in changed.items():
            (self.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.work / name).write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "--force", "origin", branch)
        return self.git("rev-parse", "HEAD")

    def branch(self, name: str, start: str) -> None:
        """Make a branch at a commit, push it, and stand on it."""
        self.git("checkout", "--quiet", "--force", "-B", name, start)
        self.git("push", "--quiet", "--force", "origin", name)

    def merge(self, into: str) -> str:
        """Stand on what GitHub would test: the branch, merged into the newest of another."""
        change = self.git("rev-parse", "HEAD")
        self.git("checkout", "--quiet", "--force", "--detach", f"origin/{into}")
        self.git("merge", "--quiet", "--no-ff", "--message", "As it would be merged", change)
        self.git("push", "--quiet", "--force", "origin", "HEAD:refs/pull/7/merge")
        return change

    def tag(self, name: str) -> None:
        """Tag the commit that the stage stands on, with a tag of its own object."""
        self.git("tag", "--annotate", name, "--message", name)
        self.git("push", "--quiet", "origin", name)

    def edit(self, name: str, before: str, after: str) -> None:
        """Replace text that is there once in a file."""
        text = (self.work / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{before!r} in {name}"
        (self.work / name).write_text(text.replace(before, after), encoding="utf-8")

    def run(
        self,
        workflow: str,
        event: str,
        payload: Mapping[str, Any],
        actor: str,
        *options: str,
        inline: bool = False,
    ) -> Run:
        """Run a workflow of the work folder's commit.

        A job of a workflow that another one calls counts as the job that calls it. Where it fails,
        act, unlike GitHub, runs none of the jobs that come after: `inline` puts the called job into
        the caller's place.
        """
        self.count += 1
        path = self.work / f".github/workflows/{workflow}.yml"
        source = path.read_text(encoding="utf-8")
        content = yaml.safe_load(source)
        callers = {job["name"]: key for key, job in content["jobs"].items()}
        if inline:
            path.write_text(json.dumps(inlined(content, path.parent)), encoding="utf-8")
        event_file = self.folder / "event.json"
        event_file.write_text(json.dumps(payload), encoding="utf-8")
        environment = {
            **self.address,
            "STAGE": str(self.folder),
            "GITHUB_RUN_ID": str(self.count),
            "MYPY_CACHE_DIR": str(self.folder / "mypy"),
            "UV_VENV_RELOCATABLE": "1",
            "BASH_ENV": str(self.folder / "bash_env"),
        }
        pins = {
            found[1]: found[2]
            for path in (self.work / ".github").rglob("*.yml")
            for found in re.finditer(
                r"uses: ((?:actions|databricks)/[\w-]+)@(\w+)", path.read_text(encoding="utf-8")
            )
        }
        command = [
            *(
                self.act,
                event,
                "--directory",
                self.work,
                "--workflows",
                f".github/workflows/{workflow}.yml",
            ),
            *("--platform", "ubuntu-latest=-self-hosted", "--platform", "self-hosted=-self-hosted"),
            *("--eventpath", event_file, "--actor", actor, "--secret", f"GITHUB_TOKEN={TOKEN}"),
            *("--no-skip-checkout", "--concurrent-jobs", "1", "--no-cache-server", "--json"),
            *("--action-cache-path", self.folder / "act"),
            *(part for name, value in environment.items() for part in ("--env", f"{name}={value}")),
            *(
                part
                for action, pin in pins.items()
                for part in (
                    "--local-repository",
                    f"{action}@{pin}={self.folder / 'actions' / action}",
                )
            ),
            *options,
        ]
        paths = os.pathsep.join(
            map(str, (self.folder / "bin", self.act.parent, os.environ["PATH"]))
        )
        done = subprocess.run(
            [str(part) for part in command],
            env=clean() | {"PATH": paths},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        path.write_text(source, encoding="utf-8")
        jobs: dict[str, str] = {}
        output = []
        for line in done.stdout.splitlines():
            entry = json.loads(line) if line.startswith("{") else {"msg": line}
            output.append(
                f"{entry.get('time', '')} {entry.get('jobID', '')}: {entry.get('msg', '').rstrip()}"
            )
            if result := entry.get("jobResult"):
                caller, *inner = entry["job"].split("/")
                job = callers[caller] if len(inner) > 1 else entry["jobID"]
                failed = jobs.get(job) == "failure"  # one of a matrix is enough
                jobs[job] = "failure" if failed else result
        text = "\n".join(output) + done.stderr
        (self.folder / f"run-{self.count}-{workflow}.log").write_text(text, encoding="utf-8")
        assert self.github.complaints == [], text
        assert done.returncode == 0 or jobs, text
        return Run(self.count, jobs, text)


def open_stage(folder: Path, project: Path) -> Stage:
    """A repository on a stage, whose loop is quick: six weeks of data, the windows of `test`."""
    made = Stage(folder, Path(os.environ.get("ACT", "act")))
    made.build(project)
    passing = "def test_open() -> None:\n    assert 1 + 1 == 2\n"
    for suite, kept in KEPT.items():
        for path in (made.work / "tests" / suite).iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (made.work / "tests" / suite / "test_open.py").write_text(passing, encoding="utf-8")
    for suite in ("spark", "storage"):
        shutil.rmtree(made.work / "tests" / suite)
    shutil.rmtree(made.work / "notebooks")
    windows = (
        (made.work / "conf" / "test.yml").read_text(encoding="utf-8").partition("training:")[2]
    )
    for env in ("staging", "prod"):
        path = made.work / "conf" / f"{env}.yml"
        before, _, deployment = path.read_text(encoding="utf-8").partition("deployment:\n")
        states = before.partition("training:")[0]
        deployment = deployment or "  approval: policy\n"
        # Days are few and their differences large: only what a test plants may stop a promotion.
        margins = "  margin: 10\n  slice_margin: 10\n"
        path.write_text(
            f"threads: 1\n{states}training:{windows}\ndeployment:\n{deployment}{margins}",
            encoding="utf-8",
        )
    changelog = made.work / "CHANGELOG.md"
    entries = "".join(f"## [{tag[1:]}]\n\nWhat {tag} brings.\n\n" for tag in RELEASES)
    changelog.write_text(changelog.read_text(encoding="utf-8") + "\n" + entries, encoding="utf-8")
    data_end(made, "2013, 2, 15")
    made.commit("main", "As rendered")
    return made


def open_foreign(folder: Path, repository: Path) -> Stage:
    """A repository that is no project of the template, on a stage, as it is."""
    made = Stage(folder, Path(os.environ.get("ACT", "act")))
    made.build(repository)
    made.commit("main", "As it is")
    return made


def data_end(stage: Stage, day: str) -> None:
    """Let the source know of no later day."""
    path = stage.work / "src" / "flight_delays" / "problem" / "sources.py"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = [
        f"DATA_ENDS = datetime({day}, tzinfo=UTC)\n" if it.startswith("DATA_ENDS =") else it
        for it in lines
    ]
    assert changed != lines
    path.write_text("".join(changed), encoding="utf-8")


def inlined(workflow: Mapping[Any, Any], folder: Path) -> dict[str, Any]:
    """A workflow whose jobs do themselves what the workflows that they call would do."""
    jobs = {}
    for key, job in workflow["jobs"].items():
        if "uses" not in job:
            jobs[key] = job
            continue
        called = yaml.safe_load((folder / Path(job["uses"]).name).read_text(encoding="utf-8"))
        declared = called[True]["workflow_call"]["inputs"]
        given = {name: it.get("default", "") for name, it in declared.items()} | job["with"]
        (body,) = called["jobs"].values()
        text = json.dumps(body)
        for name, value in given.items():
            found = re.fullmatch(r"\$\{\{ (.*) \}\}", value)
            meant = f"({found[1]})" if found else f"'{value}'"
            text = re.sub(rf"\binputs\.{name}\b", meant, text)
        kept = {part: job[part] for part in ("name", "if", "needs", "permissions") if part in job}
        jobs[key] = json.loads(text) | kept
    return {**{"on" if part is True else part: it for part, it in workflow.items()}, "jobs": jobs}


def clean() -> dict[str, str]:
    """The environment without what the testing session, or a workflow around it, has set."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GITHUB_", "PYTEST_", "VIRTUAL_ENV"))
    }


@contextmanager
def background(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a command and what it starts, until the end of the block."""
    with subprocess.Popen(
        command, cwd=folder, env=clean() | environment, start_new_session=True
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def wait_for(condition: Callable[[], object]) -> bool:
    """Whether something becomes true before patience ends."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


def free_port() -> int:
    """A port that nobody listens on, and that no connection is given while nobody does."""
    while True:
        port = SystemRandom().randrange(15_000, 30_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def post(address: str, body: str, headers: Mapping[str, str]) -> int:
    """Send a request as soon as somebody listens there; returns the status."""
    answers: list[int] = []

    def sent() -> bool:
        request = urllib.request.Request(address, body.encode(), dict(headers), method="POST")  # noqa: S310 loopback
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 loopback
                answers.append(answer.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
        except OSError:
            return False
        return True

    assert wait_for(sent), f"nobody listens at {address}"
    return answers[0]


def stand_in(action: str, command: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a composite action that runs a script of the stage."""
    named = {variable: text.partition(":")[::2] for variable, text in inputs.items()}
    program, *rest = command.split()
    script = " ".join([program, *rest[:-1], f'"{PARTS / rest[-1]}"']) if rest else program
    return {
        "name": action,
        "description": f"Stands in for {action}",
        "inputs": {
            name: {"description": name, "default": default} for name, default in named.values()
        },
        # Empty, as an output that is not there, where the script writes none.
        "outputs": {
            "artifact-url": {
                "description": "Where",
                "value": "${{ steps.stand-in.outputs.artifact-url }}",
            }
        },
        "runs": {
            "using": "composite",
            "steps": [
                {
                    "id": "stand-in",
                    "shell": "bash",
                    "run": script,
                    "env": {
                        f"INPUT_{key}": f"${{{{ inputs.{name} }}}}"
                        for key, (name, _) in named.items()
                    },
                }
            ],
        },
    }
