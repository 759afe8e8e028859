"""Stands in for actions/download-artifact: by name, or all that fit a pattern such as {a-*,b}."""

import fnmatch
import os
import shutil
import sys
from pathlib import Path

run = os.environ["INPUT_RUN"] or os.environ["GITHUB_RUN_ID"]
if run != os.environ["GITHUB_RUN_ID"] and not os.environ["INPUT_TOKEN"]:
    sys.exit("Artifacts of another run need a token.")
patterns = (os.environ["INPUT_NAME"] or os.environ["INPUT_PATTERN"]).strip("{}").split(",")
artifacts = Path(os.environ["STAGE"], "artifacts", run)
found = [
    path
    for path in artifacts.glob("*")
    if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)
]
if not found and os.environ["INPUT_NAME"]:
    sys.exit(f"Run {run} has no artifact {patterns[0]}.")
for path in found:
    shutil.copytree(path, os.environ["INPUT_PATH"], dirs_exist_ok=True)
