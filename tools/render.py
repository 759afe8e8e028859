"""Render the template as it stands in this work tree.

Usage: `python tools/render.py FOLDER [KEY=VALUE ...]`.

Unlike cookiecutter itself on a folder, this leaves out what git ignores: caches and compiled files
that working on the template leaves between its sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cookiecutter.exceptions import CookiecutterException
from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent
PROJECT_TEMPLATE = "{{cookiecutter.project_slug}}"
PARTS = (
    "cookiecutter.json",
    "template_answers.py",
    "template_extensions.py",
    "hooks",
    "templates",
    PROJECT_TEMPLATE,
)


def snapshot(target: Path) -> Path:
    """Copy the template's sources, without what git ignores, to a new folder; returns it."""
    for name in sources():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    return target


def sources() -> list[str]:
    """Paths of the template's sources, relative to the root, sorted."""
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PARTS)
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, check=False)
    if found.returncode == 0:
        names = {os.fsdecode(name) for name in found.stdout.split(b"\0") if name}
    else:  # an unpacked archive instead of a clone
        names = {
            path.relative_to(ROOT).as_posix()
            for part in PARTS
            for path in ((ROOT / part).rglob("*") if (ROOT / part).is_dir() else [ROOT / part])
        }
    # git still lists what has been deleted but not committed.
    return sorted(name for name in names if (ROOT / name).is_file())


def render(folder: Path, answers: dict[str, str]) -> Path:
    """Render into a folder, over an earlier rendering if there is one; returns the project.

    What does not come from the template stays: data, environments, the git repository. With
    `contents=ci_only`, the folder is the repository that the workflows are put into.
    """
    joins = answers.get("contents") == "ci_only"
    with tempfile.TemporaryDirectory() as temporary:
        template = snapshot(Path(temporary) / "template")
        settings = Path(temporary) / "cookiecutter.yml"
        # The defaults of the person who runs this must not change what is rendered.
        settings.write_text(f"replay_dir: {(Path(temporary) / 'replay').as_posix()}\n")
        fresh = cookiecutter(
            str(template),
            no_input=True,
            extra_context=answers,
            output_dir=str(folder if joins else Path(temporary) / "rendered"),
            config_file=str(settings),
            accept_hooks=True,
        )
        if joins:
            return folder
        project = folder / Path(fresh).name
        replace_rendered(Path(fresh), project)
    return project


def replace_rendered(fresh: Path, project: Path) -> None:
    """Put a fresh rendering in the place of an earlier one."""
    project.mkdir(parents=True, exist_ok=True)
    for entry in fresh.iterdir():
        place = project / entry.name
        if entry.name == ".git" and place.exists():
            continue
        if place.is_dir():
            shutil.rmtree(place)
        shutil.move(entry, place)


def main(arguments: list[str]) -> int:
    """Render and print where; returns the exit code."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    folder, *pairs = arguments
    answers = dict(pair.split("=", 1) for pair in pairs)
    try:
        print(render(Path(folder), answers))
    except CookiecutterException as error:
        print(f"Not rendered: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
