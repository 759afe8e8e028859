"""The project's name and place, and what the machine says of it where nobody can look it up."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
PROJECT_VARIABLE = "PROJECT_FOLDER"
DATA_VARIABLE = "DATA_FOLDER"
SECRET_VARIABLE = "WEBHOOK_SECRET"  # noqa: S105 # pragma: allowlist secret
COMMIT_VARIABLE = "DEPLOYED_COMMIT"


def project_above(start: Path) -> Path | None:
    """The folder that the machine names, or else the nearest one upwards that holds `conf/`.

    An installed package has no project above it: there the variable says where `conf/` lies.
    """
    if given := os.environ.get(PROJECT_VARIABLE):
        return Path(given).absolute()
    for folder in (start, *start.parents):
        if (folder / "conf" / "base.yml").is_file():
            return folder
    return None
