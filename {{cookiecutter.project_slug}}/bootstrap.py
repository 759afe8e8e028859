"""Run a session of the noxfile from a bare Python: `python3 bootstrap.py SESSION [ARGUMENT ...]`.

Makes `.venv` from the hash-locked requirements when it is missing, broken or out of date, then
hands over to the nox inside it. Needs Python 3.11 or later and nothing else.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

OLDEST_PYTHON = (3, 11)
# Variables that would install elsewhere than into `.venv`, or other versions.
FOREIGN_SETTINGS = frozenset(
    "PIP_CONSTRAINT PIP_PREFIX PIP_ROOT PIP_TARGET PYTHONHOME UV_PYTHON UV_SYSTEM_PYTHON "
    "VIRTUAL_ENV".split()
)
# What installers print when they fail, and what it means.
CAUSES = {
    "no space left on device": "The disk is full.",
    "failed to initialize cache": (
        "The cache cannot be written to. Set UV_CACHE_DIR to a folder that can."
    ),
    "permission denied|read-only file system": "A folder cannot be written to.",
    "hash mismatch|do not match the hashes": "The index serves another file than the one locked.",
    "certificate|unknownissuer": (
        "The certificate of the package index is not trusted. Set UV_SYSTEM_CERTS=1 to trust the "
        "system's certificates, or SSL_CERT_FILE."
    ),
    "no module named ensurepip|ensurepip is not available": (
        "On Debian and Ubuntu, install python3-venv."
    ),
    "connect|timed out|dns error|name resolution|could not find a version": (
        "The package index is not within reach. For a mirror, set PIP_INDEX_URL and "
        "UV_DEFAULT_INDEX."
    ),
}


class BootstrapError(Exception):
    """Something that the person who runs this can correct."""


def main(root: Path, arguments: "list[str]") -> int:
    """Install what is missing, then run a nox session; returns the exit code."""
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        print("`python3 bootstrap.py list` shows the sessions.")
        return 0 if not arguments or arguments[0] in ("-h", "--help") else 2
    session, *rest = arguments
    try:
        check_python()
        ensure_installed(root, session)
        return run_session(root, session, rest)
    except (BootstrapError, OSError) as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def check_python() -> None:
    """Refuse a Python that is too old."""
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = (".".join(map(str, v[:2])) for v in (OLDEST_PYTHON, sys.version_info))
        raise BootstrapError(
            f"Python {wanted} or later is needed; {sys.executable} is Python {found}."
        )


def ensure_installed(root: Path, session: str) -> None:
    """Make `.venv` hold exactly what the locks name; one process at a time."""
    if is_installed(root):
        return
    check_session(root / "noxfile.py", session)
    with only_one(root / ".venv.lock"):
        if not is_installed(root):
            install(root)


def run_session(root: Path, session: str, arguments: "list[str]") -> int:
    """Run a session, or list all, with the nox in `.venv`; returns its exit code."""
    python = python_of(root)
    command = ["--list"] if session == "list" else ["--session", session, "--", *arguments]
    # Sessions that work in `.venv` itself find its programs, uv above all, by name.
    path = os.pathsep.join((str(python.parent), os.environ.get("PATH", "")))
    nox = [str(python), "-m", "nox", "--noxfile", str(root / "noxfile.py"), *command]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(nox, cwd=root, env=environment, check=False).returncode


def is_installed(root: Path) -> bool:
    """Whether `.venv` was made from the current locks, at this place, for the Python it runs."""
    return stamp_lines(root) == [identity(root), digest(root)]


def check_session(noxfile: Path, session: str) -> None:
    """Refuse a session that the noxfile does not mention, before minutes go into installing."""
    text = noxfile.read_text(encoding="utf-8")
    if session == "list" or re.search(rf"\b{re.escape(session)}\b", text):
        return
    sessions = re.findall(r"^@nox\.session\b.*\n(?:@.*\n)*def (\w+)", text, re.MULTILINE)
    raise BootstrapError(f"There is no session {session!r}. Use one of: {', '.join(sessions)}.")


@contextlib.contextmanager
def only_one(path: Path) -> "Iterator[None]":
    """Wait for whoever holds this lock, then hold it; it ends with the process, killed or not."""
    with path.open("a") as file:
        if not try_lock(file.fileno()):
            print("bootstrap: waiting for another one that installs here", flush=True)
            while not try_lock(file.fileno()):
                time.sleep(0.2)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file unless another process holds it; returns whether it is ours."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def install(root: Path) -> None:
    """Make `.venv` hold exactly what the locks name, and the project itself.

    Without a stamp that names its Python and its place, it starts again from nothing.
    """
    venv = root / ".venv"
    started = time.monotonic()
    print(f"bootstrap: installing into {venv}", flush=True)
    if stamp_lines(root)[:1] != [identity(root)]:
        make_venv(venv)
    # Written last: an installation that was cut short has none.
    stamp(root).unlink(missing_ok=True)
    python = str(python_of(root))
    bootstrap_lock, lock = locks(root)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run_installer(root, [*pip, "--require-hashes", "--requirement", str(bootstrap_lock)])
    uv = [python, "-m", "uv", "pip"]
    run_installer(root, [*uv, "sync", "--python", python, "--require-hashes", str(lock)])
    if has_project(root):
        # The build backend comes from the lock as well.
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--editable", str(root)]
        run_installer(root, [*uv, "install", "--python", python, *options])
    seconds = time.monotonic() - started
    print(f"bootstrap: {installed_packages(root)} packages are there ({seconds:.0f} s)", flush=True)
    stamp(root).write_text(f"{identity(root)}\n{digest(root)}\n", encoding="utf-8")


def make_venv(venv: Path) -> None:
    """Create `.venv` in the place of whatever is there."""
    if venv.is_symlink():
        venv.unlink()
    elif venv.exists():
        shutil.rmtree(venv)
    # Not `sys.executable`, which may be the one in `.venv` that has just been removed.
    python = getattr(sys, "_base_executable", sys.executable)
    # Two steps, since the first would hide why the second fails.
    for command in (
        [python, "-m", "venv", "--without-pip", str(venv)],
        [str(python_of(venv.parent)), "-m", "ensurepip", "--default-pip"],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            said = " ".join((made.stdout + made.stderr).split())
            raise BootstrapError(f"Could not make {venv}.{cause_of(said)} Python said: {said}")


def has_project(root: Path) -> bool:
    """Whether this folder is an installable distribution."""
    import tomllib  # Not at the top: an older Python must get as far as the message about it.

    try:
        return "project" in tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise BootstrapError(f"pyproject.toml is not valid: {error}.") from None


def run_installer(root: Path, command: "list[str]") -> None:
    """Run an installation step into `.venv`, whatever the caller's environment says."""
    environment = {name: text for name, text in os.environ.items() if name not in FOREIGN_SETTINGS}
    # Not removed: pip's configuration files can ask for it, too.
    environment["PIP_USER"] = "0"
    pipe = subprocess.PIPE
    with bar(root):
        done = subprocess.run(
            command, cwd=root, env=environment, stderr=pipe, text=True, check=False
        )
    if done.returncode != 0:
        print(done.stderr, end="", file=sys.stderr, flush=True)
        raise BootstrapError(
            f"Installing failed with exit code {done.returncode}: see above."
            f"{cause_of(done.stderr)} Then run the same command again."
        )


@contextlib.contextmanager
def bar(root: Path) -> "Iterator[None]":
    """Show meanwhile, on a terminal, how many of the locked packages are there."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    drawing = threading.Thread(target=draw, args=(root, ended), daemon=True)
    drawing.start()
    try:
        yield
    finally:
        ended.set()
        drawing.join()


def draw(root: Path, ended: threading.Event) -> None:
    """Draw the bar until the event, then wipe it out."""
    total = len(re.findall(r"^[\w.-]+==", locks(root)[1].read_text(encoding="utf-8"), re.MULTILINE))
    started = time.monotonic()
    width = 30
    while not ended.wait(0.5):
        done = min(installed_packages(root), total)
        filled = width * done // max(total, 1)
        seconds = time.monotonic() - started
        shown = f"{'#' * filled}{'.' * (width - filled)}"
        print(f"\r  [{shown}] {done} of {total} packages, {seconds:.0f} s", end="", file=sys.stderr)
        sys.stderr.flush()
    print("\r" + " " * 79 + "\r", end="", file=sys.stderr, flush=True)


def installed_packages(root: Path) -> int:
    """How many distributions `.venv` holds."""
    return sum(1 for _ in (root / ".venv").glob("[Ll]ib*/**/site-packages/*.dist-info"))


def cause_of(said: str) -> str:
    """What an installer's messages mean, as a sentence to append; nothing if unknown."""
    for pattern, cause in CAUSES.items():
        if re.search(pattern, said, re.IGNORECASE):
            return f" {cause}"
    return ""


def python_of(root: Path) -> Path:
    """The interpreter of `.venv`."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def locks(root: Path) -> "tuple[Path, Path]":
    """What pip installs first, and what uv then installs."""
    return root / "requirements" / "bootstrap.txt", root / "requirements" / "dev.txt"


def stamp(root: Path) -> Path:
    """The file that a finished installation leaves in `.venv`."""
    return root / ".venv" / "installed.txt"


def stamp_lines(root: Path) -> "list[str]":
    """Identity and digest of the finished installation; none if there is none."""
    try:
        return stamp(root).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def identity(root: Path) -> str:
    """Place and Python of `.venv`; of an interpreter that does not answer, only the place."""
    place = str(root / ".venv")
    question = "import sys; print(*sys.version_info[:2], sep='.')"
    try:
        command = [str(python_of(root)), "-I", "-c", question]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return place
    return f"{place} {answer.stdout.strip()}"


def digest(root: Path) -> str:
    """Digest of the locks."""
    return hashlib.sha256(b"\0".join(lock.read_bytes() for lock in locks(root))).hexdigest()


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent, sys.argv[1:]))
