"""Leave out what was not asked for, start a git repository, say what is next. Needs no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

FIRST_COMMIT = "Start from the template"
# cruft renders into temporary folders to compare them: a repository there is in its way.
IS_CRUFT = bool("{{ '' if '_output_dir' in cookiecutter else 'yes' }}")
# Of prompts that offer a choice, what was chosen: never free text.
CHOSEN = ("platform={{ cookiecutter.get('platform') }}",)
# Files that come with a choice, and with no other.
ONLY_WITH = {
    "platform=databricks": (
        "databricks.yml",
        "docs/databricks.md",
        "requirements/databricks.in",
        "requirements/databricks.txt",
        "requirements/serverless.txt",
        "resources/jobs.yml",
        "resources/storage.yml",
        "resources/tracking.yml",
        "src/{{ cookiecutter.get('package_name') }}/job.py",
        "tests/bundle/jobs.py",
        "tests/bundle/reading.py",
        "tests/bundle/test_bundle.py",
        "tests/bundle/test_wheel_tasks.py",
        "tests/unit/test_job.py",
    ),
}


def leave_out(project: Path, chosen: Collection[str]) -> None:
    """Remove the files that come with a choice that was not made, and folders left empty."""
    for choice, names in ONLY_WITH.items():
        if choice in chosen:
            continue
        for name in names:
            (project / name).unlink(missing_ok=True)
            for folder in Path(name).parents[:-1]:
                with suppress(OSError):  # gone already, or it holds what others have put there
                    (project / folder).rmdir()


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


def main(project: Path) -> int:
    """Finish the rendered project; returns the exit code."""
    for line in start_repository(project):
        print(line, file=sys.stderr)
    print(f"Next, in {project.name}: python3 bootstrap.py demo")
    return 0


if __name__ == "__main__":
    leave_out(Path.cwd(), CHOSEN)
    sys.exit(0 if IS_CRUFT else main(Path.cwd()))
