"""Start a git repository, and say what to do next. Needs no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FIRST_COMMIT = "Start from the template"
# cruft renders into temporary folders to compare them: a repository there is in its way.
IS_CRUFT = bool("{{ '' if '_output_dir' in cookiecutter else 'yes' }}")


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


if __name__ == "__main__" and not IS_CRUFT:
    sys.exit(main(Path.cwd()))
