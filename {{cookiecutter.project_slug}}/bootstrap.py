"""Run a session of the noxfile from a bare Python: `python3 bootstrap.py SESSION [ARGUMENT ...]`.

Makes `.venv` from the hash-locked requirements when it is missing or out of date, then hands over
to the nox inside it. Needs Python 3.11 or later and nothing else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
# Written last: an installation that was cut short has none and is done again.
STAMP = VENV / "installed-lock.sha256"
BOOTSTRAP_LOCK = ROOT / "requirements" / "bootstrap.txt"
LOCK = ROOT / "requirements" / "dev.txt"
OLDEST_PYTHON = (3, 11)


class BootstrapError(Exception):
    """Something that the person who runs this can mend."""


def main(arguments: "list[str]") -> int:
    """Install what is missing, then run a nox session and return its exit code."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        print("`python3 bootstrap.py list` shows the sessions.")
        return 0 if not arguments or arguments[0] in ("-h", "--help") else 2
    try:
        if sys.version_info < OLDEST_PYTHON:
            wanted, found = (".".join(map(str, v[:2])) for v in (OLDEST_PYTHON, sys.version_info))
            raise BootstrapError(
                f"Python {wanted} or later is needed; {sys.executable} is Python {found}."
            )
        if not is_installed():
            install()
    except (BootstrapError, OSError) as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    session, *rest = arguments
    command = ["--list"] if session == "list" else ["--session", session, "--", *rest]
    # Sessions that work in `.venv` itself find its programs, uv above all, by name.
    environment = {**os.environ, "PATH": os.pathsep.join((str(BIN), os.environ.get("PATH", "")))}
    nox = [str(PYTHON), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *command]
    return subprocess.run(nox, cwd=ROOT, env=environment, check=False).returncode


def fingerprint() -> str:
    """Digest of all that decides what `.venv` holds."""
    parts = (BOOTSTRAP_LOCK.read_bytes(), LOCK.read_bytes(), bytes(VENV))
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_installed() -> bool:
    """Whether `.venv` was made from the current locks, at this place."""
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def install() -> None:
    """Make `.venv` hold exactly what the lock names, and the project itself."""
    print(f"bootstrap: installing into {VENV}", flush=True)
    make_venv()
    STAMP.unlink(missing_ok=True)
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, "--require-hashes", "--requirement", str(BOOTSTRAP_LOCK)])
    uv = [str(PYTHON), "-m", "uv", "pip"]
    target = ["--python", str(PYTHON)]
    run([*uv, "sync", *target, "--require-hashes", str(LOCK)])
    if has_project():
        # The build backend comes from the lock as well.
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
        run([*uv, "install", *target, *options])
    STAMP.write_text(fingerprint())


def make_venv() -> None:
    """Create `.venv`, over the remains of a half-made one if need be."""
    if is_sound_venv():
        return
    shutil.rmtree(VENV, ignore_errors=True)
    # Not `sys.executable`, which may be the one in `.venv` that has just been removed.
    python = getattr(sys, "_base_executable", sys.executable)
    made = subprocess.run(
        [python, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        why = " ".join((made.stdout + made.stderr).split())
        raise BootstrapError(
            f"Could not make {VENV} with `{python} -m venv`. On Debian and Ubuntu, install "
            f"python3-venv. Python said: {why}"
        )


def is_sound_venv() -> bool:
    """Whether `.venv` runs, has pip, is of a Python new enough, and was made at this place."""
    if not PYTHON.exists():
        return False
    question = f"import pip, sys; assert sys.version_info >= {OLDEST_PYTHON}; print(sys.prefix)"
    answer = subprocess.run(
        [str(PYTHON), "-c", question], capture_output=True, text=True, check=False
    )
    return answer.returncode == 0 and answer.stdout.strip() == str(VENV)


def has_project() -> bool:
    """Whether this folder is an installable distribution."""
    import tomllib  # Not at the top: an older Python must get as far as the message about it.

    try:
        return "project" in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BootstrapError(f"pyproject.toml is not valid: {error}.") from None


def run(command: "list[str]") -> None:
    """Run an installation step with its output on the terminal."""
    # A virtual environment that the caller is in must not be taken for ours.
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code != 0:
        raise BootstrapError(
            f"Installing failed with exit code {code}: see above. Is the package index within "
            "reach? Run the same command again to go on."
        )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
