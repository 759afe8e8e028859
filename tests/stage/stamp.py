"""Says of the `.venv` that the jobs share that it was made for the project in this folder."""

import runpy
from pathlib import Path

root = Path.cwd().resolve()
project = runpy.run_path(str(root / "bootstrap.py"))
lines = project["stamp_lines"](root)
installed = lines[1] if lines else "nothing yet"
project["stamp"](root).write_text(f"{project['identity'](root)}\n{installed}\n", encoding="utf-8")
