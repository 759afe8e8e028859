"""One session per thing a person does; `python3 bootstrap.py list` shows them all.

Sessions run on the Python that runs nox (`--force-python 3.12` chooses another) and install the
hash-locked requirements of their purpose, not the project: `src` is on the path instead.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

nox.needs_version = ">=2026.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

ROOT = Path(__file__).parent
PACKAGE = "{{cookiecutter.package_name}}"
# What runs in production: the machinery, and what the problem needs besides.
PROJECT = ("pyproject.toml", "--extra=problem")
# Clients of a cloud's storage: MLflow's, and the one that keeps an environment's state there.
CLOUDS = ("aws.in", "azure.in", "gcp.in")
# What each lock is made from. The widest comes first: the others are held to its choices, so that
# all of them agree.
LOCKS = {
    "dev": (*PROJECT, "bootstrap.in", "dev.in", "lint.in", "test.in", "types.in"),
    "run": PROJECT,
    "test": (*PROJECT, "test.in"),
    "lint": ("lint.in",),
{%- if cookiecutter.ci == "github" %}
    "actionlint": ("actionlint.in",),
{%- endif %}
    "types": (*PROJECT, "test.in", "types.in"),
    "spark": (*PROJECT, "--extra=spark", "connect.in", "test.in"),
    "storage": (*PROJECT, *CLOUDS, "storage.in", "test.in"),
    "redis": (*PROJECT, "redis.in"),  # where servers share the online store
    "kafka": (*PROJECT, "kafka.in"),  # where requests come from there
    "serve": (*PROJECT, "serve.in", "test.in"),
    "peers": ("peers.in",),
    "feast": ("feast.in",),
    "mlflow": ("mlflow.in",),  # the server of deploy/compose.yml
    "browser": (*PROJECT, "browser.in", "test.in"),
    "build": ("build.in",),
    "docs": ("docs.in",),
    "bootstrap": ("bootstrap.in",),
{%- if cookiecutter.platform == "databricks" %}
    "databricks": (*PROJECT, "--extra=databricks", "databricks.in", "test.in"),
    # What tasks install. Where one package has hashes pip wants them of all, and a wheel has none.
    "serverless": (
        *(*PROJECT, "--extra=databricks"),
        *("--constraints=requirements/databricks.txt", "--no-generate-hashes"),
    ),
{%- endif %}
}
# What these need does not suit the project: they run beside it.
APART = ("peers", "feast")
UNHELD = ("dev", *APART)
UNRELEASED = "0.0.0"  # what pyproject.toml says: a release's version is its tag
OLDEST_JAVA = 17
# What Spark needs besides itself: Delta, and a connector to Kafka with its client.
SPARK_JARS = (
    "io.delta:delta-spark_4.2_2.13:4.4.0",
    "io.delta:delta-storage:4.4.0",
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.2.0",
    "org.apache.kafka:kafka-clients:3.9.2",
    "org.apache.commons:commons-pool2:2.13.1",
)
# Where rows are few, what pays on many is switched off.
FEW_ROWS = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.default.parallelism": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.shuffle.partitions": "1",
}
AZURITE = "azurite@3.37.0"
{%- if cookiecutter.ci == "github" %}
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
SCHEMAS = {
    "github-workflows": (".github/workflows/*.yml",),
    "github-actions": (".github/actions/*/action.yml", "docs/login/*/action.yml"),
    "dependabot": (".github/dependabot.yml",),
}
{%- endif %}


def prepare(session: nox.Session, *purposes: str) -> None:
    """Make the session's environment hold exactly the locks of these purposes."""
    locks = [f"requirements/{purpose}.txt" for purpose in purposes]
    session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", *locks)
    session.env["PYTHONPATH"] = str(ROOT / "src")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the direction of imports, secrets, and notebooks without output."""
    prepare(session, "lint")
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    manifests = sorted(str(path) for path in ROOT.glob("deploy/kubernetes/[!k]*.yml"))
    session.run("kubernetes-validate", "--quiet", "--strict", *manifests)
    compose = ("--builtin-schema", "vendor.compose-spec", "deploy/compose.yml")
    session.run("check-jsonschema", "--quiet", *compose)
    if found := notebooks():
        session.run("nbstripout", "--verify", *found)
    # A workflow that passes its secrets on names none.
    passed_on = "--exclude-secrets=^inherit$"
    session.run("detect-secrets-hook", "--no-verify", passed_on, *secret_bearers())
{%- if cookiecutter.ci == "github" %}


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows: security, schemas, expressions, shell lines (builds an actionlint)."""
    prepare(session, "lint")
    logins = sorted(str(path) for path in ROOT.glob("docs/login/*/action.yml"))
    quietly = ("--offline", "--pedantic", "--quiet", "--no-progress")
    session.run("zizmor", *quietly, "--config=.github/zizmor.yml", ".github", *logins)
    for schema, patterns in SCHEMAS.items():
        files = [str(path) for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        session.run("check-jsonschema", "--quiet", "--builtin-schema", f"vendor.{schema}", *files)
    prepare(session, "actionlint")
    session.env["GOBIN"] = session.bin
    session.run_install("go", "install", ACTIONLINT, external=True)
    session.run("actionlint", external=True)
{%- else %}


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the pipeline against the forge's schema."""
    prepare(session, "lint")
    schema = ("--builtin-schema", "vendor.gitlab-ci")
    session.run("check-jsonschema", "--quiet", *schema, ".gitlab-ci.yml", ".gitlab/own.yml")
{%- endif %}


@nox.session
def fix(session: nox.Session) -> None:
    """Correct what lint finds and can correct: style, format, notebooks with output."""
    prepare(session, "lint")
    session.run("ruff", "check", "--fix-only", *session.posargs)
    session.run("ruff", "format")
    if found := notebooks():
        session.run("nbstripout", *found)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    prepare(session, "types")
    session.run("mypy", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """Test functions: no data, no files outside a temporary folder, no network."""
    prepare(session, "test")
    session.run("pytest", "tests/unit", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Test the pipelines from end to end, on a toy problem."""
    prepare(session, "test")
    session.run("pytest", "tests/integration", *session.posargs)


@nox.session
def problem(session: nox.Session) -> None:
    """Test the problem itself, its data and its notebook: whoever replaces it replaces these."""
    prepare(session, "test")
    session.run("pytest", "tests/problem", *session.posargs)


@nox.session
def gates(session: nox.Session) -> None:
    """Test that each gate lets a good model through and shuts on a fault, a kill or a race."""
    prepare(session, "test")
    session.run("pytest", "tests/gates", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and its bill of materials into dist/; one commit makes the same bytes."""
    prepare(session, "build")
    dist, sources = ROOT / "dist", Path(session.create_tmp()) / "sources"
    for folder in (dist, sources):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", sources)
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    stamped = metadata.replace(f'version = "{UNRELEASED}"', f'version = "{version()}"', 1)
    (sources / "pyproject.toml").write_text(stamped, encoding="utf-8")
    session.run("python", "-m", "flit_core.wheel", "--outdir", str(dist), str(sources))
    session.run(
        *("cyclonedx-py", "requirements", "requirements/run.txt", "--output-reproducible"),
        *(f"--pyproject={sources / 'pyproject.toml'}", f"--output-file={dist / 'sbom.cdx.json'}"),
    )


@nox.session(venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the container image from the wheel in dist/ (needs podman, buildah or docker)."""
    builders = ("podman", "buildah", "docker")
    builder = next(filter(None, map(shutil.which, builders)), None)
    if builder is None:
        session.error("A builder of images is needed on the PATH: podman, buildah or docker.")
    name = f"{PACKAGE.replace('_', '-')}:{version().replace('+', '-')}"
    session.run(builder, "build", "--file=Containerfile", f"--tag={name}", ".", external=True)


@nox.session
def cli(session: nox.Session) -> None:
    """Run a verb of the wheel in dist/, apart from the sources: `cli train --env staging`."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        session.error(
            f"dist/ must hold one wheel and holds {len(wheels)}: "
            "`python3 bootstrap.py build` makes it."
        )
    prepare(session, "run")
    session.env["PYTHONPATH"] = ""
    session.run_install(
        "uv", "pip", "install", "--quiet", "--no-deps", "--reinstall", str(wheels[0])
    )
    session.run("python", "-P", "-m", PACKAGE, *session.posargs)


@nox.session
def ci(session: nox.Session) -> None:
    """Run a script of ci/ that needs the project: `ci model score FILE`."""
    prepare(session, "test")
    session.env["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    if not session.posargs:
        session.error("Which script of ci/? `ci model score FILE`.")
    script, *arguments = session.posargs
    session.run("python", "-m", f"ci.{script}", *arguments)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run lint, types, unit, problem and integration."""
    for name in ("lint", "types", "unit", "problem", "integration"):
        session.notify(name)


@nox.session
def spark(session: nox.Session) -> None:
    """Test that the loop is the same on Spark as on polars (needs Java 17 or later, and Maven)."""
    env = local_spark(session) | {"KAFKA_JARS": kafka_jars(session)}
    prepare(session, "spark", "kafka")
    session.run("pytest", "tests/spark", *session.posargs, env=env)
    if not session.posargs:
        # A Spark Connect server on this machine, and workers that find the project.
        remote = {
            f"{PACKAGE.upper()}_SPARK__REMOTE": "local[2]",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "src"))),
        }
        session.run("pytest", "tests/spark/test_engine.py", env=env | remote)


@nox.session
def postgres(session: nox.Session) -> None:
    """Test that rows to score can come from a PostgreSQL server (needs PostgreSQL's programs)."""
    programs = require_postgres(session)
    prepare(session, "test")
    session.run("pytest", "tests/postgres", *session.posargs, env={"POSTGRES_PROGRAMS": programs})


@nox.session
def redis(session: nox.Session) -> None:
    """Test that Redis can hold the online store (needs redis-server)."""
    program = require_redis(session)
    prepare(session, "test", "redis")
    session.run("pytest", "tests/redis", *session.posargs, env={"REDIS_SERVER": program})


@nox.session
def kafka(session: nox.Session) -> None:
    """Test the stream on a Kafka of its own (needs Java 17 or later, and Maven).

    `KILLS` and `MESSAGES` in the environment: how many consumers are killed over how many requests.
    """
    require_java(session)
    jars = kafka_jars(session)
    prepare(session, "test", "kafka")
    session.run("pytest", "tests/kafka", *session.posargs, env={"KAFKA_JARS": jars})


@nox.session
def soak(session: nox.Session) -> None:
    """Load the server while what it needs is killed: `-- --seconds 1800 --requests 1000000`."""
    program = require_redis(session)
    prepare(session, "test", "redis")
    session.run("pytest", "tests/soak", "-rP", *session.posargs, env={"REDIS_SERVER": program})


@nox.session
def storage(session: nox.Session) -> None:
    """Test the loop on what answers as S3 and as Azure, with an MLflow server (needs npm)."""
    azurite = require_azurite(session)
    prepare(session, "storage")
    session.run("pytest", "tests/storage", *session.posargs, env={"AZURITE": azurite})


@nox.session
def endurance(session: nox.Session) -> None:
    """Test weeks of production: killed at every step, with another future, watched by two.

    `KILLS` in the environment: how often a process is killed at a random moment.
    """
    prepare(session, "test")
    session.run("pytest", "tests/endurance", *session.posargs)


@nox.session
def intervals(session: nox.Session) -> None:
    """Test by simulation that 95 % intervals hold in about 95 %, also where days are few."""
    prepare(session, "test")
    session.run("python", "benchmarks/intervals.py", *session.posargs)


@nox.session
def hostile(session: nox.Session) -> None:
    """Test with arguments, configurations and requests drawn at random: no traceback, ever."""
    prepare(session, "test")
    session.run("pytest", "tests/hostile", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """Test the pages in a headless browser (needs Chromium or Chrome)."""
    program = require_chromium(session)
    prepare(session, "browser")
    session.run("pytest", "tests/browser", *session.posargs, env={"CHROMIUM": program})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site into site/; a link that leads nowhere fails it."""
    prepare(session, "docs")
    session.run("zensical", "build", "--clean", "--strict", *session.posargs)


@nox.session
def picture(session: nox.Session) -> None:
    """Write the replay's dashboard anew and take the README's picture of it (needs Chromium)."""
    program = require_chromium(session)
    prepare(session, "browser")
    session.run("python", "-m", PACKAGE, "dashboard", "--env", "replay")
    session.run("python", "-m", "tests.browser.picture", env={"CHROMIUM": program})


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Run the whole loop on the sample data, in `.venv`."""
    session.run(project_python(session), "-m", PACKAGE, "run", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measure speed, memory and size, in `.venv`, and print a table."""
    session.run(project_python(session), "benchmarks/bench.py", *session.posargs, external=True)


@nox.session(name="bench-serve")
def bench_serve(session: nox.Session) -> None:
    """Measure the server beside others on the same version; needs Linux."""
    env = {}
    for name in APART:
        python = interpreter_of(session, name)
        locked = ("--require-hashes", f"requirements/{name}.txt")
        session.run_install("uv", "pip", "sync", "--quiet", f"--python={python}", *locked)
        env[f"{name.upper()}_PYTHON"] = python
    prepare(session, "serve")
    session.run("python", "-m", "benchmarks.serve", *session.posargs, env=env)


@nox.session(name="bench-kafka")
def bench_kafka(session: nox.Session) -> None:
    """Measure the stream on Kafka beside a loop that only copies (needs Java 17 and Maven)."""
    require_java(session)
    jars = kafka_jars(session)
    prepare(session, "test", "kafka")
    session.run("python", "-m", "benchmarks.kafka", *session.posargs, env={"KAFKA_JARS": jars})


@nox.session(name="bench-stream")
def bench_stream(session: nox.Session) -> None:
    """Measure the stream beside Spark's on the same requests (needs Java 17 and Maven)."""
    env = local_spark(session, few_rows=False)
    prepare(session, "spark")
    session.run("python", "-m", "benchmarks.stream", *session.posargs, env=env)


@nox.session(venv_backend="none")
def scale(session: nox.Session) -> None:
    """Measure how features and scoring grow with rows, in `.venv`: `scale 1 10 100`."""
    session.run(project_python(session), "-m", "benchmarks.scale", *session.posargs, external=True)


@nox.session(venv_backend="none")
def drift(session: nox.Session) -> None:
    """Measure how often drift alarms without cause, and which shifts it sees, in `.venv`."""
    session.run(project_python(session), "benchmarks/drift.py", *session.posargs, external=True)


@nox.session(venv_backend="none")
def replay(session: nox.Session) -> None:
    """Walk production through the past, week by week, in `.venv`; ends with a dashboard."""
    session.run(project_python(session), "-m", PACKAGE, "replay", *session.posargs, external=True)


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Lock the requirements again; `-- --upgrade` takes the newest versions."""
    for name, sources in LOCKS.items():
        compile_lock(session, name, sources)


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


def secret_bearers() -> list[str]:
    """Files that git knows or would add.

    Left out are locks and cruft's note of the template's commit, whose hashes look like secrets,
    tests, whose secrets are made up, pictures and notebooks. Elsewhere a line that is none is
    marked with `pragma: allowlist secret`.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    left_out = re.compile(r"(?:requirements/.*\.txt|\.cruft\.json|tests/.*|.*\.(?:png|svg|ipynb))")
    return [name for name in names if not left_out.fullmatch(name)]


def version() -> str:
    """Version of the commit that is checked out: its tag's (v1.2.0), or one that names it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    tag = git("describe", "--tags", "--exact-match", "--match=v[0-9]*", "--dirty=+dirty")
    commit = git("rev-parse", "--short=12", "HEAD")
    return tag.removeprefix("v") or (f"{UNRELEASED}+g{commit}" if commit else UNRELEASED)


def notebooks() -> list[str]:
    """Paths of all notebooks; given none, nbstripout would wait for one on standard input."""
    return sorted(str(path) for path in (ROOT / "notebooks").glob("*.ipynb"))


def interpreter_of(session: nox.Session, name: str) -> str:
    """The interpreter of a further environment, which is made once."""
    folder = Path(session.cache_dir).resolve() / name
    session.run_install("uv", "venv", "--quiet", "--allow-existing", str(folder))
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def project_python(session: nox.Session) -> str:
    """The interpreter of `.venv`, where the project itself is installed."""
    folder, name = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    python = ROOT / ".venv" / folder / name
    if not python.exists():
        session.error(f"There is no .venv yet: `python3 bootstrap.py {session.name}` makes it.")
    return str(python)


def local_spark(session: nox.Session, *, few_rows: bool = True) -> dict[str, str]:
    """Environment variables of a Spark on this machine; stop with advice without Java or Maven."""
    require_java(session)
    options = {
        "spark.jars": spark_jars(session),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "2g",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
    }
    return {
        "LC_ALL": "C.UTF-8",  # Java's names of files
        f"{PACKAGE.upper()}_SPARK__MASTER": "local[2]",
        f"{PACKAGE.upper()}_SPARK__OPTIONS": json.dumps(options | (FEW_ROWS if few_rows else {})),
    }


def require_java(session: nox.Session) -> None:
    """Stop with advice unless a Java that Spark and Kafka run on is found."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    advice = (
        f"Java {OLDEST_JAVA} or later is needed on the PATH or at JAVA_HOME "
        "(Debian and Ubuntu: apt-get install openjdk-17-jre-headless)"
    )
    if java is None:
        session.error(f"{advice}; none was found.")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < OLDEST_JAVA:
        session.error(f"{advice}; {java} is Java {found[1] if found else 'of no known version'}.")


def spark_jars(session: nox.Session) -> str:
    """Paths of Spark's jars, which Maven fetches once; stop with advice if there is no Maven."""
    folder = Path(session.cache_dir).resolve() / "spark"
    jars = {name: folder / "{1}-{2}.jar".format(*name.split(":")) for name in SPARK_JARS}
    missing = [name for name, jar in jars.items() if not jar.exists()]
    if missing:
        require_maven(session)
    for name in missing:
        command = ("mvn", "--quiet", "--batch-mode", "dependency:copy", f"-Dartifact={name}")
        session.run(*command, f"-DoutputDirectory={folder}", external=True)
    return ",".join(map(str, jars.values()))


def kafka_jars(session: nox.Session) -> str:
    """Folder of the jars of a Kafka broker, which Maven fetches once; stop without Maven."""
    wanted = ROOT / "tests" / "kafka" / "pom.xml"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
    folder = Path(session.cache_dir).resolve() / f"kafka-{digest}"
    if not (folder / "complete").exists():
        require_maven(session)
        command = ("mvn", "--quiet", "--batch-mode", f"--file={wanted}")
        goal = "dependency:copy-dependencies"
        session.run(*command, goal, f"-DoutputDirectory={folder}", external=True)
        (folder / "complete").touch()
    return str(folder)


def require_maven(session: nox.Session) -> None:
    """Stop with advice if there is no Maven."""
    if shutil.which("mvn") is None:
        session.error(
            "Maven is needed to fetch jars (Debian and Ubuntu: apt-get install maven); "
            "no mvn was found."
        )


def require_azurite(session: nox.Session) -> str:
    """The program that answers as Azure's storage, which npm fetches once; stop without npm."""
    folder = Path(session.cache_dir).resolve() / AZURITE
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        if shutil.which("npm") is None:
            session.error(
                "npm is needed to fetch Azurite (Debian and Ubuntu: apt-get install npm); "
                "no npm was found."
            )
        options = ("--silent", "--no-fund", "--no-audit", "--ignore-scripts")
        session.run("npm", "install", *options, f"--prefix={folder}", AZURITE, external=True)
    return str(program)


def require_postgres(session: nox.Session) -> str:
    """The folder of PostgreSQL's programs; stop with advice if there is none."""
    # Debian keeps them off the PATH.
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    found = shutil.which("initdb") or next(reversed(debian), None)
    if found is None:
        session.error(
            "PostgreSQL is needed (Debian and Ubuntu: apt-get install postgresql); "
            "no initdb was found."
        )
    return str(Path(found).parent)


def require_redis(session: nox.Session) -> str:
    """The program of a Redis server; stop with advice if there is none."""
    found = shutil.which("redis-server")
    if found is None:
        session.error(
            "Redis is needed (Debian and Ubuntu: apt-get install redis-server); "
            "no redis-server was found."
        )
    return found


def require_chromium(session: nox.Session) -> str:
    """The program of an installed Chromium or Chrome; stop with advice if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        session.error(
            "Chromium is needed on the PATH or at CHROMIUM (Debian: apt-get install chromium)."
        )
    return found
{%- if cookiecutter.platform == "databricks" %}


@nox.session
def databricks(session: nox.Session) -> None:
    """Test the bundle against its schema, and run its tasks from the wheel as a job would."""
    env = {"TASKS_PYTHON": machine_of_tasks(session)}
    prepare(session, "databricks")
    session.run("pytest", "tests/bundle", *session.posargs, env=env)
    if shutil.which("databricks") is None:
        session.warn("NOT VALIDATED: no `databricks` on the PATH, only the schema was asked.")
        return
    bundles = {".": (), "serving": ("--var=champion=1", "--var=warehouse=1")}
    for folder, given in bundles.items():
        with session.chdir(folder):
            for target in ("dev", "staging", "prod"):
                command = ("databricks", "bundle", "validate", "--strict", f"--target={target}")
                session.run(*command, *given, external=True)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run the bundle's tasks from the wheel on a local Spark (needs Java 17 and Maven)."""
    env = local_spark(session) | {"TASKS_ENGINE": "spark"}
    of_clusters = ("pyspark", "pyarrow", "--constraints=requirements/spark.txt")
    env["TASKS_PYTHON"] = machine_of_tasks(session, *of_clusters)
    prepare(session, "databricks")
    session.run("pytest", "tests/bundle/test_wheel_tasks.py", *session.posargs, env=env)


def machine_of_tasks(session: nox.Session, *more: str) -> str:
    """An interpreter with what jobs install, the wheel and its pins, and more packages."""
    build(session)
    python = interpreter_of(session, f"tasks-{session.name}")
    (wheel,) = map(str, (ROOT / "dist").glob("*.whl"))
    wanted = ("--requirement=requirements/serverless.txt", wheel, *more)
    session.run_install("uv", "pip", "install", "--quiet", f"--python={python}", *wanted)
    return python


@nox.session
def serving(session: nox.Session) -> None:
    """Call `databricks bundle` on serving/, whose tables Python names: `serving deploy -t prod`."""
    prepare(session, "databricks")
    with session.chdir("serving"):
        session.run("databricks", "bundle", *session.posargs, external=True)
{%- endif %}
