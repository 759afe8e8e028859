"""Stands in for actions/upload-artifact: copies into a folder of the stage."""

import os
import shutil
import sys
from pathlib import Path

pattern, name = os.environ["INPUT_PATH"], os.environ["INPUT_NAME"]
place = Path(os.environ["STAGE"], "artifacts", os.environ["GITHUB_RUN_ID"], name)
found = sorted(Path().glob(pattern.removesuffix("/")))
if not found and os.environ["INPUT_NONE"] == "error":
    sys.exit(f"No files: {pattern}")
place.mkdir(parents=True, exist_ok=True)
for path in found:
    if path.is_dir():
        shutil.copytree(path, place, dirs_exist_ok=True)
    else:
        shutil.copy(path, place)
