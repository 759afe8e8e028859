"""Keep what was asked for, put it in its place, and say what to do next. Needs no network.

A project starts a git repository; `contents: ci_only` joins the repository that it is rendered in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# What only one value of an option has: the others' parts are removed. Each file is named, so that
# nobody's other files go with them.
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "contents": {
        "everything": (".github/workflows/locks.yml", "ci/model.py"),
    },
    "ci": {
        "github": (
            ".github/CODEOWNERS",
            ".github/actionlint.yaml",
            ".github/actions/alert/action.yml",
            ".github/actions/login/action.yml",
            ".github/actions/missing/action.yml",
            ".github/actions/python/action.yml",
            ".github/actions/wheel/action.yml",
            ".github/dependabot.yml",
            ".github/pull_request_template.md",
            ".github/rulesets/main.json",
            ".github/rulesets/release.json",
            ".github/rulesets/tags.json",
            ".github/workflows/environment.yml",
            ".github/workflows/locks.yml",
            ".github/workflows/production.yml",
            ".github/workflows/pull-request.yml",
            ".github/workflows/release.yml",
            ".github/workflows/staging.yml",
            ".github/zizmor.yml",
            "docs/login/aws/action.yml",
            "docs/login/azure/action.yml",
            "docs/login/databricks/action.yml",
            "docs/login/gcp/action.yml",
            "docs/login/variables/action.yml",
            "requirements/actionlint.in",
            "requirements/actionlint.txt",
        ),
    },
    "platform": {
        "databricks": (
            "ci/workspace.py",
            "databricks.yml",
            "docs/databricks.md",
            "requirements/databricks.in",
            "requirements/databricks.txt",
            "requirements/serverless.txt",
            "resources/jobs.yml",
            "resources/storage.yml",
            "resources/tracking.yml",
            "serving/databricks.yml",
            "serving/endpoint.yml",
            "serving/online.py",
            "serving/production.lvdash.json",
            "serving/watch.yml",
            "src/{{ cookiecutter.get('package_name') }}/job.py",
            "tests/bundle/jobs.py",
            "tests/bundle/reading.py",
            "tests/bundle/test_bundle.py",
            "tests/bundle/test_serving.py",
            "tests/bundle/test_wheel_tasks.py",
            "tests/spark/test_catalog.py",
            "tests/unit/test_job.py",
            "tests/unit/test_workspace.py",
        ),
    },
}
# Folders whose files take the places of others, or join them, with a choice.
INSTEAD = {("ci", "gitlab"): ".gitlab_ci", ("contents", "ci_only"): ".ci_only"}
# The login of the workflows, and the example that takes its place on Databricks.
LOGIN = ".github/actions/login/action.yml"
LOGINS = {"databricks": "docs/login/databricks/action.yml"}
# All that `ci_only` keeps.
CI_ONLY = (
    ".github/actionlint.yaml",
    ".github/actions",
    ".github/rulesets",
    ".github/workflows",
    ".github/zizmor.yml",
    ".gitlab-ci.yml",
    ".gitlab/own.yml",
    "ci",
    "docs/ci.md",
    "docs/login",
)
# Of it, what belongs to the repository once it is there.
THEIRS = (
    ".github/actionlint.yaml",
    LOGIN,
    ".github/zizmor.yml",
    ".gitlab/own.yml",
    "ci/commands.toml",
)
MOST_NAMED = 5
FIRST_COMMIT = "Start from the template"
# cruft renders into temporary folders to compare them: a repository there is in its way.
IS_CRUFT = bool("{{ '' if '_output_dir' in cookiecutter else 'yes' }}")
IS_OVERWRITING = bool("{{ 'yes' if cookiecutter._overwrite == 'yes' else '' }}")
# Of prompts that offer a choice, what was chosen: never free text.
ANSWERS = {
    "contents": "{{ 'ci_only' if cookiecutter.get('contents') == 'ci_only' else 'everything' }}",
    "ci": "{{ 'gitlab' if cookiecutter.get('ci') == 'gitlab' else 'github' }}",
    "platform": "{{ 'databricks' if cookiecutter.get('platform') == 'databricks' else 'local' }}",
}


def keep_parts(rendering: Path, answers: dict[str, str]) -> None:
    """Remove what belongs to answers that were not given; lay over it what belongs to others."""
    for option, values in PARTS.items():
        for value, paths in values.items():
            if value != answers[option]:
                remove(rendering, paths)
    for (option, value), folder in INSTEAD.items():
        if value == answers[option]:
            shutil.copytree(rendering / folder, rendering, dirs_exist_ok=True)
        remove(rendering, [folder])
    example = LOGINS.get(answers["platform"])
    if example and answers["ci"] == "github" and answers["contents"] == "everything":
        shutil.copy(rendering / example, rendering / LOGIN)
    if answers["contents"] == "ci_only":
        keep_ci_only(rendering)


def remove(rendering: Path, paths: Iterable[str]) -> None:
    """Remove files and folders, if they are there, and folders that are empty then."""
    for path in paths:
        place = rendering / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        for folder in Path(path).parents[:-1]:
            with suppress(OSError):  # gone already, or it holds what others have put there
                (rendering / folder).rmdir()


def keep_ci_only(rendering: Path) -> None:
    """Leave the workflows and what they need."""
    kept = [rendering / path for path in CI_ONLY]
    # What a folder holds comes before the folder.
    for path in sorted(rendering.rglob("*"), reverse=True):
        if path.is_file() and not any(path.is_relative_to(part) for part in kept):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def join(repository: Path, rendering: Path, *, overwrite: bool) -> str | None:
    """Move a rendering's files into a repository that is there; it keeps all that it has.

    Returns why nothing was moved, and how to mend it, in one line; nothing if all was.
    """
    files = [path.relative_to(rendering) for path in sorted(rendering.rglob("*")) if path.is_file()]
    new = [
        name for name in files if not (name.as_posix() in THEIRS and (repository / name).is_file())
    ]
    if reason := no_repository(repository) or in_the_way(repository, new):
        return reason
    changed = [
        name
        for name in new
        if (repository / name).exists()
        and (repository / name).read_bytes() != (rendering / name).read_bytes()
    ]
    if changed and not overwrite:
        return (
            f"{named(changed)} there already: move them away, or answer _overwrite=yes, which "
            "replaces files that are committed."
        )
    if changed and (lost := not_committed(repository, changed)):
        return f"{named(lost)} not committed and would be lost: commit them first."
    return move(new, rendering, repository)


def no_repository(folder: Path) -> str | None:
    """Why a folder is not the root of a git repository, and how to mend it; nothing if it is."""
    if shutil.which("git") is None:
        return "git was not found: install it first."
    found = git(folder, "rev-parse", "--show-prefix")
    if found.returncode != 0:
        return "it is no git repository: go to the root of one, or name it by --output-dir."
    if place := found.stdout.strip().rstrip("/"):
        return (
            "a forge reads workflows at the root of a repository only, and this is its folder "
            f'{place}: render at the root, then write folder = "{place}" into ci/commands.toml.'
        )
    return None


def in_the_way(repository: Path, names: list[Path]) -> str | None:
    """What stands where a file or its folder must be, and how to mend it; nothing if nothing."""
    for name in names:
        for part in (name, *name.parents):
            place = repository / part
            is_right = place.is_dir() if part != name else place.is_file()
            if os.path.lexists(place) and (place.is_symlink() or not is_right):
                kind = "file" if part == name else "folder"
                return f"{part.as_posix()} is in the way of a {kind} of this name: rename it."
    return None


def not_committed(repository: Path, names: list[Path]) -> list[Path]:
    """Those of these files that git does not keep as they are."""
    options = ("--porcelain", "-z", "--no-renames", "--ignored", "--untracked-files=all")
    status = git(repository, "status", *options, "--", *(name.as_posix() for name in names))
    # Each entry is two letters of state, a space, and the path.
    return [Path(entry[3:]) for entry in status.stdout.split("\0") if entry]


def named(names: list[Path]) -> str:
    """A few names, with their verb."""
    few = ", ".join(name.as_posix() for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{few}{more} {'is' if len(names) == 1 else 'are'}"


def move(names: list[Path], rendering: Path, repository: Path) -> str | None:
    """Move files; returns why it could not be done, and then no new one is there."""
    made: list[Path] = []
    try:
        for name in names:
            place = repository / name
            made += [path for path in (*reversed(place.parents), place) if not path.exists()]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(rendering / name, place)
    except OSError as error:
        for path in reversed(made):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        return f"{error.filename} could not be written ({error.strerror})."
    return None


def start_repository(project: Path) -> list[str]:
    """Make the project a git repository with a first commit, so that runs can name their code.

    Left alone within a repository that keeps the project itself. Returns what was not done, in
    lines for the terminal.
    """
    if shutil.which("git") is None:
        return ["git was not found, so this is no git repository yet."]
    if is_kept_by_git(project):
        return []
    made = git(project, "init", "--quiet")
    if made.returncode != 0:
        return [f"No git repository was made: {one_line(made.stderr)}"]
    # Older than 2.28, git has no `init --initial-branch`.
    git(project, "symbolic-ref", "HEAD", "refs/heads/main")
    if git(project, "var", "GIT_AUTHOR_IDENT").returncode != 0:
        return ["Nothing is committed yet: git knows neither your name nor your e-mail address."]
    # Neither a passphrase prompt nor a hook of the user's may interrupt the rendering.
    options = ("--quiet", "--no-verify", "--no-gpg-sign", "--message", FIRST_COMMIT)
    for command in (("add", "--all"), ("commit", *options)):
        done = git(project, *command)
        if done.returncode != 0:
            return [f"Nothing is committed yet: {one_line(done.stderr)}"]
    return []


def is_kept_by_git(project: Path) -> bool:
    """Whether a git work tree holds this folder and does not ignore it."""
    if git(project, "rev-parse", "--is-inside-work-tree").returncode != 0:
        return False
    own = git(project, "rev-parse", "--show-cdup").stdout.strip() == ""
    return own or git(project, "check-ignore", "--quiet", ".").returncode != 0


def git(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in the project."""
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=project, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def one_line(text: str) -> str:
    """A message without line breaks."""
    return " ".join(text.split())


def finish_project(project: Path) -> int:
    """Finish a new project; returns the exit code."""
    for line in start_repository(project):
        print(line, file=sys.stderr)
    print(f"Next, in {project.name}: python3 bootstrap.py demo")
    return 0


def finish_ci_only(rendering: Path, *, overwrite: bool) -> int:
    """Move the workflows to where they belong; returns the exit code."""
    repository = rendering.parent
    if reason := join(repository, rendering, overwrite=overwrite):
        print(f"Nothing was added to {repository}: {reason}", file=sys.stderr)
        return 1
    os.chdir(repository)
    shutil.rmtree(rendering)
    print(f"Next, in {repository.name}: name its commands in ci/commands.toml; see docs/ci.md")
    return 0


def main(rendering: Path) -> int:
    """Finish the rendering; returns the exit code."""
    keep_parts(rendering, ANSWERS)
    if IS_CRUFT:
        return 0
    if ANSWERS["contents"] == "ci_only":
        return finish_ci_only(rendering, overwrite=IS_OVERWRITING)
    return finish_project(rendering)


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
