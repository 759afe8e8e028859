"""Run a session of the noxfile from a bare Python: `python3 bootstrap.py SESSION [ARGUMENT ...]`.

What it does is in the bootstrap.py of the rendered projects, which serves this folder as well.
"""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if __name__ == "__main__":
    bootstrap = runpy.run_path(str(ROOT / "{{cookiecutter.project_slug}}" / "bootstrap.py"))
    sys.exit(bootstrap["main"](ROOT, sys.argv[1:]))
