"""Stands in for actions/upload-artifact: copies into a folder of the stage."""

import os
import shutil
import sys
from pathlib import Path

pattern, name, run = os.environ["INPUT_PATH"], os.environ["INPUT_NAME"], os.environ["GITHUB_RUN_ID"]
place = Path(os.environ["STAGE"], "artifacts", run, name)
found = sorted(Path().glob(pattern.removesuffix("/")))
if os.environ["INPUT_HIDDEN"] != "true":
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
if not found and os.environ["INPUT_NONE"] == "error":
    sys.exit(f"No files: {pattern}")
if not found:
    sys.exit(0)
if place.exists():
    sys.exit(f"Run {run} has an artifact {name} already.")
place.mkdir(parents=True)
for path in found:
    if path.is_dir():
        shutil.copytree(path, place, dirs_exist_ok=True)
    else:
        shutil.copy(path, place)
with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
    file.write(f"artifact-url=https://github.test/artifacts/{run}/{name}\n")
