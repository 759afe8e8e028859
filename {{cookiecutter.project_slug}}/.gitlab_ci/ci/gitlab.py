"""What the pipeline asks of GitLab: `python3 -m ci.gitlab VERB`. Needs Python 3.11, nothing else.

`begins TASK` and `passes TASK` leave a file from which `needs TASK ...` prints, in a later job,
how tasks ended; `override` prints why the model's gate is overridden;
`note FILE` writes a note of the merge request, over the last one if there is one; `publish TAG`
keeps what is in `dist/` and makes a release; `fetch` gets the wheel of the release that the
checked out commit is into `dist/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CiError, run
from .forge import MARKER

RESULTS = Path("results")  # a file TASK.status of each task that began
DIST = Path("dist")
NOTES = Path("notes.md")
USAGE = (
    "Usage: ci.gitlab begins TASK | passes TASK | needs TASK ... | override | note FILE | "
    "publish TAG | fetch"
)
LABEL = "model-override"
REASON = re.compile(r"^Model override: *(\S.*)$", re.MULTILINE)
DIGEST = re.compile(r"^`([0-9a-f]{64})  ([\w.+-]+\.whl)`$", re.MULTILINE)
# Variables that hold tokens: the job's own, and one that may write notes; and the header of each.
JOB = "CI_JOB_TOKEN"
NOTE = "NOTE_TOKEN"
_HEADERS = {JOB: "JOB-TOKEN", NOTE: "PRIVATE-TOKEN"}
_PAGE = 100
_PATIENCE_S = 60


def main(arguments: list[str]) -> None:
    """Do what is asked for.

    Raises:
        CiError: Arguments, or what GitLab refuses.
    """
    match arguments:
        case ["begins", task]:
            mark(task, "failure")  # until it passes
        case ["passes", task]:
            mark(task, "success")
        case ["needs", *tasks]:
            print(json.dumps(needs(tasks)))
        case ["override"]:
            print(override(os.environ))
        case ["note", file]:
            note(Path(file))
        case ["publish", tag]:
            publish(tag)
        case ["fetch"]:
            fetch()
        case _:
            raise CiError(USAGE)


def mark(task: str, result: str) -> None:
    """Leave how a task ends, on this Python if it runs on several."""
    RESULTS.mkdir(exist_ok=True)
    name = "-".join(filter(None, (task, os.environ.get("PYTHON"))))
    (RESULTS / f"{name}.status").write_text(f"{result}\n", encoding="utf-8")


def needs(tasks: list[str]) -> dict[str, dict[str, str]]:
    """How tasks ended: failure if one of several did, skipped if none began."""
    found = {}
    for task in tasks:
        paths = (*RESULTS.glob(f"{task}.status"), *RESULTS.glob(f"{task}-*.status"))
        ended = {path.read_text(encoding="utf-8").strip() for path in paths}
        found[task] = {"result": min(ended, default="skipped")}  # failure comes before success
    return found


def override(variables: Mapping[str, str]) -> str:
    """The reason to override the model's gate: a label together with a line; or nothing."""
    labels = variables.get("CI_MERGE_REQUEST_LABELS", "").split(",")
    found = REASON.search(variables.get("CI_MERGE_REQUEST_DESCRIPTION", "").replace("\r", ""))
    return found[1].strip() if found and LABEL in labels else ""


def note(file: Path) -> None:
    """Write the note of the merge request; without a token the report is in the log alone."""
    if not os.environ.get(NOTE):
        print("No note is written without the variable NOTE_TOKEN: see docs/ci.md.")
        return
    notes = f"merge_requests/{setting('CI_MERGE_REQUEST_IID')}/notes"
    body = {"body": file.read_text(encoding="utf-8")}
    mine = ask("GET", f"{setting('CI_API_V4_URL')}/user", sender=NOTE)["id"]
    page, known = 1, []
    while listed := of_project("GET", f"{notes}?per_page={_PAGE}&page={page}", sender=NOTE):
        # Anybody may begin a note with the marker; only this token's are ours.
        known += [
            it["id"]
            for it in listed
            if it["author"]["id"] == mine and it["body"].startswith(MARKER)
        ]
        page += 1
    if known:
        of_project("PUT", f"{notes}/{known[0]}", body, sender=NOTE)
    else:
        of_project("POST", notes, body, sender=NOTE)


def publish(tag: str) -> None:
    """Keep the files of a release, and make it; its description has the digest of the wheel."""
    wheel = one_wheel()
    optional = (Path("reports", "model_card.md"), Path("requirements", "run.txt"))
    files = [*sorted(DIST.iterdir()), *(path for path in optional if path.is_file())]
    links = []
    for path in files:
        place = f"packages/generic/{setting('CI_PROJECT_NAME')}/{tag}/{path.name}"
        of_project("PUT", place, path.read_bytes())
        links.append({"name": path.name, "url": project(place), "link_type": "package"})
    text = f"{NOTES.read_text(encoding='utf-8').rstrip()}\n\n`{digest_of(wheel)}  {wheel.name}`\n"
    body = {"name": tag, "tag_name": tag, "description": text, "assets": {"links": links}}
    of_project("POST", "releases", body)


def fetch() -> None:
    """Get the released wheel of this commit, which must be the one that staging tested."""
    asked = ("git", "tag", "--points-at", "HEAD", "v*")
    tags = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    if not tags:
        raise CiError(
            "This commit is no release. Tag it, let staging pass, then move release to it: "
            "docs/ci.md."
        )
    described = of_project("GET", f"releases/{tags[0]}")["description"]
    found = DIGEST.search(described)
    if found is None:
        raise CiError(f"The release {tags[0]} names no digest of a wheel: make it anew.")
    digest, name = found.groups()
    DIST.mkdir(exist_ok=True)
    place = f"packages/generic/{setting('CI_PROJECT_NAME')}/{tags[0]}/{name}"
    (DIST / name).write_bytes(of_project("GET", place))
    if digest_of(DIST / name) != digest:
        (DIST / name).unlink()
        raise CiError(f"{name} of {tags[0]} is not the wheel that staging tested.")


def one_wheel() -> Path:
    """The wheel in `dist/`.

    Raises:
        CiError: There is none, or more than one.
    """
    wheels = sorted(DIST.glob("*.whl"))
    if len(wheels) != 1:
        raise CiError(f"dist/ must hold one wheel and holds {len(wheels)}.")
    return wheels[0]


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_project(method: str, path: str, body: Any = None, sender: str = JOB) -> Any:
    """Ask about this project; returns what is answered."""
    return ask(method, project(path), body, sender)


def project(path: str) -> str:
    """Address of something of this project."""
    return f"{setting('CI_API_V4_URL')}/projects/{setting('CI_PROJECT_ID')}/{path}"


def ask(method: str, address: str, body: Any = None, sender: str = JOB) -> Any:
    """Send bytes as they are, all else as JSON; with the job's token, or that of the notes.

    Raises:
        CiError: GitLab refuses, or does not answer.
    """
    header = {_HEADERS[sender]: setting(sender)}
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = urllib.request.Request(  # noqa: S310 GitLab's own address
        address, content, {**header, "Content-Type": kind}, method=method
    )
    try:
        with urllib.request.urlopen(sent, timeout=_PATIENCE_S) as answer:  # noqa: S310
            text = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return json.loads(text) if is_json else text
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")
        raise CiError(f"{method} {address}: {error.code} {said[:200]}") from None
    except OSError as error:
        raise CiError(f"{method} {address}: {error}") from None


def setting(name: str) -> str:
    """A variable of the job.

    Raises:
        CiError: It is not set.
    """
    if value := os.environ.get(name):
        return value
    raise CiError(f"{name} is not set: this runs in a pipeline.")


if __name__ == "__main__":
    run(main)
