"""What becomes of the answers: defaults that are valid, checks, and what follows from them.

cookiecutter asks for all of this while it reads `cookiecutter.json`, before anything is written.
"""

from __future__ import annotations

import keyword
import re
import sys
import sysconfig
import unicodedata
from collections.abc import MutableMapping
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from slugify import slugify

PROJECT = Path(__file__).resolve().parent / "{{cookiecutter.project_slug}}"
FREE_TEXTS = ("project_name", "description", "author")
MAX_LENGTH = 40
# Where `ci_only` is rendered, in the repository that the hook then moves it to.
CI_ONLY = ".rendering"
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
JINJA_MARKS = ("{{", "{%", "{#")
# Cc: controls, newline among them; Zl, Zp: line and paragraph separators; Cs: half characters.
BREAKS = ("Cc", "Cs", "Zl", "Zp")
# Cf: zero-width and bidirectional marks; Co, Cn: characters without a meaning.
INVISIBLE = ("Cf", "Co", "Cn")
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
# Words that YAML reads as a truth value or as nothing.
YAML_WORDS = frozenset("false n no null off on true y yes".split())
# Windows gives these names to devices, in every folder.
DEVICES = frozenset(
    ["aux", "con", "nul", "prn", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))]
)
# Modules of the standard library that not every supported Python has.
OTHER_PYTHONS = frozenset(
    """
    aifc annotationlib asynchat asyncore audioop cgi cgitb chunk compression crypt distutils
    imghdr imp lib2to3 mailcap msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau
    telnetlib test tomllib uu xdrlib
    """.split()
)
# Modules that are called otherwise than the distributions that the locks name.
MODULES = frozenset(
    """
    argon2 arro3 attr bs4 cpython databricks dateutil dotenv git go google graphql importlinter
    ipykernel_launcher jupyter markdown_it mpl_toolkits mypyc opentelemetry pil pip pkg_resources
    py pylab pythonjsonlogger rpds ruamel setuptools sklearn vl_convert
    websocket wheel wrapt_stubs yaml yaml_stubs zmq
    """.split()
)
# Programs in the environment of a project that are called otherwise than their distributions.
PROGRAMS = frozenset(
    """
    activate activate-global-python-argcomplete cffi-gen-src cmark deactivate debugpy-adapter dmypy
    f2py gunicornc huey-consumer identify-cli ipython3 jlpm jupyter-dejavu jupyter-execute
    jupyter-kernel jupyter-kernelspec jupyter-lab jupyter-labextension jupyter-labhub
    jupyter-migrate jupyter-nbconvert jupyter-run jupyter-troubleshoot jupyter-trust
    lint-dependency-groups lint-imports mako-render markdown-py normalizer numpy-config pb
    pip-install-dependency-groups pip3 pybabel pyftmerge pyftsubset pygmentize pyjson5 python
    python3 pythonw register-python-argcomplete sqlformat st stubgen stubtest tox-to-nox ttx uvx
    wsdump
    """.split()
)
# Prefixes of variables that runners, clouds and shells set; a project reads all of its own prefix.
PREFIXES = frozenset(
    """
    actions agent apprise aws azure build ci conda docker git github gitlab go gpg home http https
    java jupyter kafka kubernetes lc mlflow node npm pip pythonpath pytest runner spark ssh system
    user uv virtual xdg
    """.split()
)


class AnswerRefused(SystemExit):
    """An answer cannot become a working project: the program prints this one line and ends.

    Other exceptions end in a traceback under cruft.
    """


def default_slug(project_name: str) -> str:
    """A slug that is accepted, as near to the project's name as may be."""
    slug = slugify(project_name)
    if not slug[:1].isalpha():
        slug = f"project-{slug}"
    slug = slugify(slug, max_length=MAX_LENGTH, word_boundary=True)
    if problem_with_slug(slug) is None:
        return slug
    ending = "-project"
    return slugify(slug, max_length=MAX_LENGTH - len(ending), word_boundary=True) + ending


def derived(answers: MutableMapping[str, str]) -> str:
    """Check all answers and add what follows from them: `package_name`, the folder.

    Returns nothing: what counts is that cookiecutter asks.

    Raises:
        AnswerRefused: What is wrong with the first bad answer, and how to correct it.
    """
    if problem := problem_with(answers):
        raise AnswerRefused(f"Cannot render the project: {problem}")
    answers["package_name"] = answers["project_slug"].replace("-", "_")
    if answers["contents"] == "ci_only":
        answers["project_slug"] = CI_ONLY
    return ""


def problem_with(answers: MutableMapping[str, str]) -> str | None:
    """Say what is wrong with the answers and how to correct it, or nothing."""
    for name in FREE_TEXTS:
        if problem := problem_with_text(name, answers[name]):
            return problem
    if problem := problem_with_slug(answers["project_slug"]):
        return f"project_slug {answers['project_slug']!r} {problem}"
    return None


def problem_with_text(name: str, text: str) -> str | None:
    """Free text must be one line that every file format can carry and every reader can see."""
    if not text.strip():
        return f"{name} is empty: give one line of text."
    if text != text.strip():
        return f"{name} {text!r} begins or ends with a space: remove it."
    for character in text:
        category = unicodedata.category(character)
        if category in BREAKS:
            return (
                f"{name} {text!r} holds a line break or control character: give one line of text."
            )
        if category in INVISIBLE or character in BLANKS:
            code = f"U+{ord(character):04X}"
            return f"{name} {text!a} holds the invisible character {code}: remove it."
    if any(mark in text for mark in JINJA_MARKS):
        return f"{name} {text!r} holds template code: use other brackets."
    return None


def problem_with_slug(slug: str) -> str | None:
    """The slug names a folder, a distribution, a command and a package; nothing if it can."""
    package = slug.replace("-", "_")
    if not SLUG.fullmatch(slug):
        return (
            "is no valid name: use lower-case letters, digits and single hyphens, and begin with "
            "a letter (flight-delays)."
        )
    if len(slug) > MAX_LENGTH:
        return f"has {len(slug)} characters: use at most {MAX_LENGTH}."
    reasons = {
        "a keyword of Python": keyword.iskeyword(package),
        "a device on Windows": slug in DEVICES,
        "a word that YAML does not read as text": slug in YAML_WORDS,
        "a module of Python's standard library": is_standard(package),
        "a library that the project installs": package in MODULES | distributions(),
        "a part of the rendered project": package in parts(),
        "a program in the project's environment": slug in PROGRAMS,
        "the prefix of other programs' environment variables": package in PREFIXES,
    }
    found = next((reason for reason, applies in reasons.items() if applies), None)
    return f"is {found}: choose another." if found else None


def is_standard(module: str) -> bool:
    """Whether a Python imports this without anything being installed."""
    if module in sys.stdlib_module_names or module in OTHER_PYTHONS:
        return True
    return PathFinder.find_spec(module, [sysconfig.get_path("stdlib")]) is not None


@cache
def parts() -> frozenset[str]:
    """Folders and modules at the root of a rendered project."""
    return frozenset(path.stem for path in PROJECT.iterdir())


@cache
def distributions() -> frozenset[str]:
    """What the locks of a rendered project install, spelled as modules are."""
    names = {
        line.partition("==")[0]
        for lock in (PROJECT / "requirements").glob("*.txt")
        for line in lock.read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    return frozenset(re.sub(r"[-.]+", "_", name).lower() for name in names)
