"""Stands in for GitHub's `gh`: the commands that are used, refused where the real one refuses.

It needs a token, a repository and, since act does not hold jobs to them, the permissions that the
job's workflow gives it.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import yaml

STAGE = Path(os.environ["STAGE"])
# What each request needs, as GitHub's documentation of the permissions of tokens has it.
SCOPES = (
    (r"/actions/", "actions"),
    (r"/issues/\d+/comments|/issues/comments/|/pulls", "pull-requests"),
    (r"/issues", "issues"),
    (r"/statuses", "statuses"),
    (r"/tags|/releases", "contents"),
)
CHANGES = ("POST", "PATCH", "PUT", "DELETE")


def refuse(message: str, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def repository(given: str | None = None) -> str:
    found = given or os.environ.get("GH_REPO")
    return found or refuse("none of the git remotes point to a known GitHub host")


def permit(scope: str, *, write: bool) -> None:
    """Refuse what the job's permissions do not allow; a person's token, outside, allows all."""
    if "GITHUB_JOB" not in os.environ:
        return
    for path in (STAGE / "work" / ".github" / "workflows").iterdir():
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        job = workflow["jobs"].get(os.environ["GITHUB_JOB"])
        if job and workflow["name"] == os.environ["GITHUB_WORKFLOW"]:
            level = {**workflow["permissions"], **job["permissions"]}.get(scope)
            if level == "write" or (level == "read" and not write):
                return
            refuse(f"HTTP 403: Resource not accessible by integration ({scope})")
    refuse(f"no workflow has the job {os.environ['GITHUB_JOB']}")


def request(method: str, path: str, body: Any = None) -> Any:
    """Send it to the stage's GitHub."""
    address = f"{os.environ['GITHUB_API_URL']}/{path.lstrip('/')}"
    if not re.search(r"/attestations", path):
        scope = next(scope for pattern, scope in SCOPES if re.search(pattern, path))
        permit(scope, write=method in CHANGES)
    content = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {os.environ['GH_TOKEN']}"}
    sent = urllib.request.Request(address, content, headers, method=method)  # noqa: S310 loopback
    try:
        with urllib.request.urlopen(sent, timeout=60) as answer:  # noqa: S310 loopback
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        refuse(f"gh: {json.loads(error.read() or '{}').get('message')} (HTTP {error.code})")


def shown(answer: Any, jq: str | None) -> None:
    if jq is None:
        print(json.dumps(answer))
        return
    text = json.dumps(answer)
    done = subprocess.run(["gojq", "--raw-output", jq], input=text, text=True, check=False)
    if done.returncode:
        sys.exit(1)


def typed(text: str) -> Any:
    """A value of --field."""
    if text.startswith("@"):
        return Path(text[1:]).read_text(encoding="utf-8")
    fixed = {"true": True, "false": False, "null": None}
    return fixed[text] if text in fixed else int(text) if re.fullmatch(r"-?\d+", text) else text


def api(given: argparse.Namespace) -> None:
    body: dict[str, Any] = {}
    for text in given.field:
        name, _, value = text.partition("=")
        body[name] = typed(value)
    for text in given.raw_field:
        name, _, value = text.partition("=")
        body[name] = value
    method = given.method or ("POST" if body else "GET")
    if given.paginate and method != "GET":
        refuse("the `--paginate` option is not supported for non-GET requests")
    if given.jq and given.silent:
        refuse("only one of `--template`, `--jq`, `--silent`, or `--verbose` may be used")
    if method == "GET" and body:
        refuse("the stage does not know fields of a question")
    page, answer = 1, request(method, given.path, body or None)
    while given.paginate and answer:
        shown(answer, given.jq)
        page += 1
        mark = "&" if "?" in given.path else "?"
        answer = request("GET", f"{given.path}{mark}page={page}")
    if not given.paginate and not given.silent:
        shown(answer, given.jq)


def issue_list(given: argparse.Namespace) -> None:
    fields = (given.json or "").split(",")
    found = request("GET", f"repos/{repository()}/issues?state={given.state}")
    kept = [
        {name: issue[name] for name in fields} for issue in found if "pull_request" not in issue
    ]
    shown(kept[: given.limit], given.jq)


def issue_create(given: argparse.Namespace) -> None:
    request("POST", f"repos/{repository()}/issues", {"title": given.title, "body": given.body})


def issue_comment(given: argparse.Namespace) -> None:
    permit("issues", write=True)
    os.environ.pop("GITHUB_JOB", None)  # the path is also that of a pull request's comments
    request("POST", f"repos/{repository()}/issues/{given.number}/comments", {"body": given.body})


def issue_close(given: argparse.Namespace) -> None:
    request("PATCH", f"repos/{repository()}/issues/{given.number}", {"state": "closed"})
    if given.comment:
        issue_comment(argparse.Namespace(number=given.number, body=given.comment))


def workflow_run(given: argparse.Namespace) -> None:
    fields = given.raw_field + given.field
    if not all("=" in text for text in fields):
        refuse(f"field {fields} requires a value separated by an '=' sign")
    inputs = dict(text.split("=", 1) for text in fields)
    path = f"repos/{repository(given.repo)}/actions/workflows/{given.workflow}/dispatches"
    request("POST", path, {"ref": given.ref, "inputs": inputs})


def release_create(given: argparse.Namespace) -> None:
    if not given.verify_tag:
        refuse("the stage wants the tag to be there")
    if lost := [path for path in (*given.files, given.notes_file) if not Path(path).is_file()]:
        refuse(f"no matches found for `{lost[0]}`")
    body = {"tag_name": given.tag, "body": Path(given.notes_file).read_text(encoding="utf-8")}
    request("POST", f"repos/{repository()}/releases", body)
    place = STAGE / "releases" / given.tag
    place.mkdir(parents=True)
    for path in given.files:
        shutil.copy(path, place)


def release_download(given: argparse.Namespace) -> None:
    request("GET", f"repos/{repository()}/releases/tags/{given.tag}")
    place = STAGE / "releases" / given.tag
    found = [path for path in place.iterdir() if fnmatch.fnmatch(path.name, given.pattern)]
    if not found:
        refuse("no assets match the file pattern")
    folder = Path(given.dir)
    folder.mkdir(parents=True, exist_ok=True)
    for path in found:
        if (folder / path.name).exists():
            refuse(f"{folder / path.name} already exists (use `--clobber` to overwrite)")
        shutil.copy(path, folder)


def attestation_verify(given: argparse.Namespace) -> None:
    permit("attestations", write=False)
    digest = hashlib.sha256(Path(given.file).read_bytes()).hexdigest()
    record = STAGE / "attestations" / digest
    if not record.is_file():
        refuse(f"Error: no attestations found for subject {given.file}")
    known = json.loads(record.read_text(encoding="utf-8"))
    wanted = {
        "repository": given.repo,
        "workflow": given.signer_workflow,
        "commit": given.source_digest,
        "ref": given.source_ref,
    }
    if known != wanted:
        refuse(f"Error: verifying with issuer: {known} is not {wanted}")


def options(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(name)


def main() -> None:
    parser = argparse.ArgumentParser("gh", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)

    groups: dict[str, Any] = {}

    def command(words: str, act: Any, *positional: str) -> argparse.ArgumentParser:
        first, *rest = words.split()
        place: argparse.ArgumentParser
        if rest:
            if first not in groups:
                group = commands.add_parser(first, allow_abbrev=False)
                groups[first] = group.add_subparsers(required=True)
            place = groups[first].add_parser(rest[0], allow_abbrev=False)
        else:
            place = commands.add_parser(first, allow_abbrev=False)
        place.set_defaults(act=act)
        options(place, *positional)
        return place

    it = command("api", api, "path")
    options(it, "--method", "--jq")
    it.add_argument("--field", "-F", action="append", default=[])
    it.add_argument("--raw-field", "-f", action="append", default=[])
    it.add_argument("--paginate", action="store_true")
    it.add_argument("--silent", action="store_true")
    it = command("issue list", issue_list)
    options(it, "--json", "--jq")
    it.add_argument("--state", choices=["open", "closed", "all"], default="open")
    it.add_argument("--limit", type=int, default=30)
    options(command("issue create", issue_create), "--title", "--body")
    options(command("issue comment", issue_comment, "number"), "--body")
    options(command("issue close", issue_close, "number"), "--comment")
    it = command("workflow run", workflow_run, "workflow")
    options(it, "--ref", "--repo")
    it.add_argument("--raw-field", "-f", action="append", default=[])
    it.add_argument("--field", "-F", action="append", default=[])
    it = command("release create", release_create, "tag")
    it.add_argument("files", nargs="*")
    it.add_argument("--verify-tag", action="store_true")
    options(it, "--notes-file")
    options(command("release download", release_download, "tag"), "--dir", "--pattern")
    it = command("attestation verify", attestation_verify, "file")
    options(it, "--repo", "--signer-workflow", "--source-digest", "--source-ref")
    given = parser.parse_args()
    if not os.environ.get("GH_TOKEN"):
        refuse("gh: To use GitHub CLI in a GitHub Actions workflow, set GH_TOKEN.", 4)
    given.act(given)


if __name__ == "__main__":
    main()
