"""One session per thing a person does; `python3 bootstrap.py list` shows them all.

Sessions run on the Python that runs nox (`--force-python 3.12` chooses another).
"""

import os
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

ROOT = Path(__file__).parent
# Where default projects are rendered; who runs several sessions at once gives each its own.
DEMO = ROOT / os.environ.get("DEMO", "demo")
PROJECT_REQUIREMENTS = ROOT / "{{cookiecutter.project_slug}}" / "requirements"
# What executes workflows, and what checks their shell lines. Both are built with the Go that the
# lock names: the one that Debian 12 has is too old for them.
GO_TOOLS = (
    "github.com/nektos/act@v0.2.89",
    "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12",
    "github.com/itchyny/gojq/cmd/gojq@v0.12.17",
)
# A public package of another layout, whose own tests the workflows run: version and digest.
FOREIGN = "pathspec==0.12.1"
FOREIGN_DIGEST = "a482d51503a1ab33b1c67a6c3813a26953dbdc71c31dacaef9a838c4e29f5712"
# What executes GitLab's pipelines; later versions need a newer Node than Debian 12 has.
GITLAB_CI_LOCAL = "gitlab-ci-local@4.63.0"
# What each lock is made from. The widest comes first: the others are held to its choices.
LOCKS = {
    "dev": ("bootstrap.in", "dev.in", "lint.in", "render.in", "test.in", "types.in"),
    "lint": ("lint.in",),
    "render": ("bootstrap.in", "render.in"),
    "test": ("bootstrap.in", "render.in", "test.in"),
    "types": ("render.in", "test.in", "types.in"),
    "workflows": ("bootstrap.in", "render.in", "test.in", "workflows.in"),
    "bootstrap": ("bootstrap.in",),
}

UNHELD = ("dev",)


def prepare(session: nox.Session, purpose: str) -> None:
    """Make the session's environment hold exactly the lock of this purpose."""
    lock = f"requirements/{purpose}.txt"
    session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", lock)


def in_demo(session: nox.Session, name: str, *answers: str, inside: str = "") -> Path:
    """Render the default project into demo/, over an earlier one, and run a session of its own.

    With other answers it has a folder inside. Returns the project.
    """
    project = render(session, DEMO / inside, *answers)
    session.run("python", str(project / "bootstrap.py"), name, *session.posargs)
    return project


def render(session: nox.Session, folder: Path, *answers: str) -> Path:
    """Render the project with some answers, else the defaults, into a folder; returns it."""
    prepare(session, "render")
    command = ("python", "tools/render.py", str(folder), *answers)
    printed = session.run(*command, silent=True, stderr=None)
    return Path(str(printed).splitlines()[-1])


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and workflows of the generator (the rendered project checks itself)."""
    prepare(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    # Of the template as it stands, too: nothing in its workflows is rendered.
    for folder in (ROOT / ".github", PROJECT_REQUIREMENTS.parent / ".github"):
        config = [f"--config={path}" for path in folder.glob("zizmor.yml")]
        session.run(
            "zizmor", "--offline", "--pedantic", "--quiet", "--no-progress", *config, str(folder)
        )
        for kind, pattern in (("workflows", "*.yml"), ("actions", "*/action.yml")):
            files = [str(path) for path in sorted((folder / kind).glob(pattern))]
            schema = ("--builtin-schema", f"vendor.github-{kind}")
            session.run("check-jsonschema", "--quiet", *schema, *files)


@nox.session
def fix(session: nox.Session) -> None:
    """Correct what lint finds and can be corrected."""
    prepare(session, "lint")
    session.run("ruff", "check", "--fix-only", *session.posargs)
    session.run("ruff", "format")


@nox.session
def types(session: nox.Session) -> None:
    """Check types of the generator, strictly."""
    prepare(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Test the rendering: hooks, answers, structure, updates."""
    prepare(session, "test")
    session.run("pytest", "-m", "not run and not act", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Render every variant and run its own checks: lint, format, types, unit, integration."""
    prepare(session, "test")
    session.run("pytest", "-m", "run and not swapped", *session.posargs)


@nox.session
def swapped(session: nox.Session) -> None:
    """Run what else projects with other problems, and on other Pythons, have: an hour or more."""
    prepare(session, "test")
    session.run("pytest", "-m", "swapped", *session.posargs)


@nox.session
def workflows(session: nox.Session) -> None:
    """Execute the workflows of rendered projects, red and green (needs npm and rsync)."""
    prepare(session, "workflows")
    tools = Path(session.cache_dir).resolve() / "go"
    for package in GO_TOOLS:
        session.run_install("go", "install", package, env={"GOBIN": str(tools)}, external=True)
    session.run(str(tools / "actionlint"), external=True)  # a project lints its own
    # Two stories, side by side: most of their jobs keep one core busy.
    side_by_side = ("--numprocesses=2", "--dist=loadfile")
    given = {
        "ACT": str(tools / "act"),
        "FOREIGN": str(foreign_sources(session)),
        "GITLAB_CI_LOCAL": str(gitlab_ci_local(session)),
    }
    session.run("pytest", "-m", "act", *side_by_side, *session.posargs, env=given)


def gitlab_ci_local(session: nox.Session) -> Path:
    """The program that executes GitLab's pipelines, which npm fetches once."""
    folder = Path(session.cache_dir).resolve() / GITLAB_CI_LOCAL
    program = folder / "node_modules" / ".bin" / "gitlab-ci-local"
    if missing := [name for name in ("npm", "rsync") if shutil.which(name) is None]:
        session.error(
            f"{' and '.join(missing)} must be installed (Debian, Ubuntu: apt-get install)."
        )
    if not program.exists():
        options = ("--silent", "--no-fund", "--no-audit", "--ignore-scripts")
        session.run(
            "npm", "install", *options, f"--prefix={folder}", GITLAB_CI_LOCAL, external=True
        )
    return program


def foreign_sources(session: nox.Session) -> Path:
    """The sources of a foreign package, fetched once; uv cannot fetch what it does not install."""
    folder = Path(session.cache_dir).resolve() / "foreign"
    if not folder.exists():
        asked = Path(session.create_tmp()) / "foreign.txt"
        asked.write_text(f"{FOREIGN} --hash=sha256:{FOREIGN_DIGEST}\n", encoding="utf-8")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
        options = ("--no-deps", "--no-binary=:all:", "--require-hashes", f"--dest={folder}")
        session.run(*pip, *options, f"--requirement={asked}", external=True)
    (sources,) = folder.glob("*.tar.gz")
    return sources


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run lint, types, unit and integration."""
    for name in ("lint", "types", "unit", "integration"):
        session.notify(name)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the whole loop of the default project, in demo/."""
    in_demo(session, "demo")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmark of the default project, in demo/; measure rendering and its checks."""
    session.run("python", "tools/bench.py", str(in_demo(session, "bench")))


@nox.session
def spark(session: nox.Session) -> None:
    """Test the default project's loop on Spark, in demo/ (needs Java 17 and Maven)."""
    in_demo(session, "spark")


@nox.session
def cluster(session: nox.Session) -> None:
    """Run tasks of a project for Databricks on Spark, in demo/ (needs Java 17 and Maven)."""
    in_demo(session, "cluster", "platform=databricks", inside="on-databricks")


@nox.session
def postgres(session: nox.Session) -> None:
    """Test the default project's requests from PostgreSQL, in demo/ (needs PostgreSQL)."""
    in_demo(session, "postgres")


@nox.session
def redis(session: nox.Session) -> None:
    """Test the default project's online store on Redis, in demo/ (needs redis-server)."""
    in_demo(session, "redis")


@nox.session
def soak(session: nox.Session) -> None:
    """Load the default project's server, in demo/, while what it needs is killed (redis-server)."""
    in_demo(session, "soak")


@nox.session(name="bench-serve")
def bench_serve(session: nox.Session) -> None:
    """Measure the default project's server beside others, in demo/; needs Linux."""
    in_demo(session, "bench-serve")


@nox.session
def kafka(session: nox.Session) -> None:
    """Test the default project's stream on Kafka, in demo/ (needs Java 17 and Maven)."""
    in_demo(session, "kafka")


@nox.session
def storage(session: nox.Session) -> None:
    """Test the default project's loop on object storage, in demo/ (needs npm)."""
    in_demo(session, "storage")


@nox.session
def endurance(session: nox.Session) -> None:
    """Test weeks of the default project's production, in demo/: killed, misled, watched by two."""
    in_demo(session, "endurance")


@nox.session
def intervals(session: nox.Session) -> None:
    """Test by simulation, in demo/, that the default project's 95 % intervals hold."""
    in_demo(session, "intervals")


@nox.session
def hostile(session: nox.Session) -> None:
    """Test with arguments, configurations and requests drawn at random, in demo/."""
    in_demo(session, "hostile")


@nox.session
def browser(session: nox.Session) -> None:
    """Test the default project's pages in a headless browser, in demo/ (needs Chromium)."""
    in_demo(session, "browser")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the default project's documentation as a site, in demo/; a dead link fails it."""
    in_demo(session, "docs")


@nox.session(venv_backend="none")
def tag(session: nox.Session) -> None:
    """Tag the versions that the changelog names."""
    session.run(sys.executable, "tools/versions.py", external=True)


@nox.session
def lock(session: nox.Session) -> None:
    """Lock the generator's and the template's requirements; `-- --upgrade` takes the newest."""
    for name, sources in LOCKS.items():
        compile_lock(session, name, sources)
    # With all that can be chosen, so that no lock is left out.
    project = render(session, Path(session.create_tmp()), "platform=databricks")
    # With this nox: the project's own would first install all that is about to be locked.
    nested = ("-m", "nox", "--noxfile", str(project / "noxfile.py"), "--session", "lock")
    session.run(sys.executable, *nested, "--", *session.posargs, external=True)
    for locked in (project / "requirements").glob("*.txt"):
        shutil.copy(locked, PROJECT_REQUIREMENTS)


def compile_lock(session: nox.Session, name: str, sources: tuple[str, ...]) -> None:
    """Lock what these sources ask for, held to the choices of the widest one."""
    inputs = [f"requirements/{source}" if source.endswith(".in") else source for source in sources]
    held = [] if name in UNHELD else ["--constraints=requirements/dev.txt"]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes"),
        *("--no-emit-index-url", "--no-annotate", "--python-version=3.11"),
        *("--custom-compile-command=nox -s lock", f"--output-file=requirements/{name}.txt"),
        *(*held, *inputs, *session.posargs),
        external=True,
    )
