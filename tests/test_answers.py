"""Which answers are refused, what the others become, and that none can become code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import NASTY, OPTIONS, PROBLEM_TYPES, PROMPTS, Bake, files_in

import template_answers
from template_answers import AnswerRefused, default_slug, derived, problem_with, problem_with_slug

DEFAULTS = {
    "project_name": "Flight Delays",
    "project_slug": "flight-delays",
    "description": "One sentence.",
    "author": "Data Team",
    "problem_type": "regression",
}
NOT_A_NAME = [
    *("", "-", "-a", "a-", "a--b", "1a", "2024-sales", "A", "a_b", "a.b", "a b", "a/b", "../a"),
    *("..", "~", "a\n", "a\nb", 'a"b', "a'b", "a\\b", "$(x)", "{{ x }}", "a;b", "a\0b", "a²"),
    *("ä", "ﬁ", "\u0430-cyrillic", "a\u200bb", "日本"),
]
REFUSED_SLUGS = {
    "40": ["x" * 41, "x" * 200],
    "keyword of Python": ["class", "lambda", "import", "async"],
    "device on Windows": ["aux", "con", "lpt1", "com9", "prn"],
    "word that YAML": ["yes", "no", "on", "off", "true", "false", "null", "y", "n"],
    "Python's standard library": [
        *("test", "json", "statistics", "imp", "distutils", "antigravity", "idlelib", "tomllib"),
        *("this", "site", "lib2to3", "annotationlib"),
    ],
    "part of the rendered project": ["conf", "src", "tests", "ci", "docs", "bootstrap", "noxfile"],
    "library that the project installs": [
        *("polars", "scikit-learn", "sklearn", "mlflow", "pip", "setuptools", "pkg-resources"),
        *("yaml", "attr", "pil", "dateutil", "zmq", "mlflow-skinny"),
    ],
    "program in the project's environment": [
        *("python", "python3", "activate", "pip3", "dmypy", "f2py", "jlpm", "stubgen", "ttx"),
        *("jupyter-lab", "lint-imports", "uvx"),
    ],
    "prefix of other programs' environment variables": [
        *("github", "java", "home", "aws", "kubernetes", "conda", "runner", "actions", "spark"),
    ],
}
NAMES = [
    *("Flight Delays", "Test", "2024 Sales", "yes", "Null", "Python", "pip", "GitHub", "JSON"),
    *("A Name That Goes On And On Until No Folder Could Be Called Like It", "x" * 100, "日本"),
    *("Über Straßen", "a_b", "a.b", "...", "№ 5", "Ω", "🛫", "con", "class", "Sklearn", "R&D"),
    *("C:\\temp", "../..", "-", "42", "a", "I", "test-project", "12 angry men", "É", "ﬁsh"),
    *NASTY.values(),
]
REFUSED_TEXTS = {
    "is empty": ["", "  ", "\u3000"],
    "begins or ends with a space": [" a", "a ", "a\u00a0"],
    "line break or control character": [
        *("a\nb", "a\rb", "a\tb", "a\x00b", "a\x7fb", "a\u2028b", "a\u2029b", "a\x85b"),
        *("a\x1b[31mb", "a\ud800b"),
    ],
    "invisible character U+": [
        *("a\u200bb", "a\u200eb", "a\u202eb", "a\u2066b", "a\ufeffb", "a\u00adb", "a\u2060b"),
        *("a\u034fb", "a\u3164b", "a\u2800b", "a\ue000b", "a\U000e0041b"),
    ],
    "template code": ["{{ cookiecutter }}", "a {% if x %}", "{# a"],
}


def each(refused: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(answer, why) for why, answers in refused.items() for answer in answers]


def test_defaults_are_accepted() -> None:
    assert problem_with(DEFAULTS) is None


@pytest.mark.parametrize("slug", ["a", "a1", "a-b-c", "x" * 40, "flight-delays-2", "tests-of-time"])
def test_good_slugs(slug: str) -> None:
    assert problem_with(DEFAULTS | {"project_slug": slug}) is None


@pytest.mark.parametrize("text", [*NASTY.values(), "x", "日本", "'", '"', "\\", "مرحبا", "नमस्ते"])
@pytest.mark.parametrize("option", template_answers.FREE_TEXTS)
def test_good_texts(option: str, text: str) -> None:
    assert problem_with(DEFAULTS | {option: text}) is None


@pytest.mark.parametrize("slug", NOT_A_NAME)
def test_slugs_that_are_no_name_are_refused(slug: str) -> None:
    assert "is no valid name" in str(problem_with(DEFAULTS | {"project_slug": slug}))


@pytest.mark.parametrize(("slug", "why"), each(REFUSED_SLUGS))
def test_slugs_that_are_taken_are_refused(slug: str, why: str) -> None:
    problem = str(problem_with(DEFAULTS | {"project_slug": slug}))
    assert problem.startswith(f"project_slug '{slug}'")
    assert why in problem


@pytest.mark.parametrize(("text", "why"), each(REFUSED_TEXTS))
@pytest.mark.parametrize("option", template_answers.FREE_TEXTS)
def test_texts_that_cannot_be_shown_are_refused(option: str, text: str, why: str) -> None:
    problem = str(problem_with(DEFAULTS | {option: text}))
    assert problem.startswith(option)
    assert why in problem
    assert problem.isprintable()


def test_every_locked_library_is_taken() -> None:
    locked = template_answers.distributions()
    assert len(locked) > 100
    slugs = {name.replace("_", "-") for name in locked}
    assert [slug for slug in slugs if problem_with_slug(slug) is None] == []


def test_a_module_is_standard_whichever_python_renders() -> None:
    assert template_answers.OTHER_PYTHONS - sys.stdlib_module_names != set()
    assert all(map(template_answers.is_standard, template_answers.OTHER_PYTHONS))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_slug_is_accepted(name: str) -> None:
    assert problem_with_slug(default_slug(name)) is None


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Flight Delays", "flight-delays"),
        ("Test", "test-project"),
        ("2024 Sales", "project-2024-sales"),
        ("Über Straßen", "uber-strassen"),
    ],
)
def test_the_default_slug_is_near_the_name(name: str, slug: str) -> None:
    assert default_slug(name) == slug


def test_the_package_is_called_like_the_slug() -> None:
    answers = dict(DEFAULTS)
    assert derived(answers) == ""
    assert answers["package_name"] == "flight_delays"


def test_a_refusal_is_one_line_that_ends_the_program() -> None:
    with pytest.raises(AnswerRefused) as refusal:
        derived(DEFAULTS | {"author": " "})
    assert (
        refusal.value.code == "Cannot render the project: author is empty: give one line of text."
    )


@pytest.mark.parametrize(
    "answers",
    [
        {"project_slug": "Not Valid"},
        {"project_slug": "class"},
        {"description": "two\nlines"},
        {"author": " "},
    ],
)
def test_a_refusal_leaves_nothing_behind(
    bake: Bake, answers: dict[str, str], tmp_path: Path
) -> None:
    result = bake(**answers)
    assert str(result.exception).startswith("Cannot render the project: ")
    assert not any(path.is_file() for path in (tmp_path / "cookies").rglob("*"))


def test_every_prompt_is_worded() -> None:
    assert OPTIONS["__prompts__"].keys() == PROMPTS
    assert OPTIONS["__prompts__"]["problem_type"].keys() == {"__prompt__", *PROBLEM_TYPES}


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "Other Name", "project_slug": "flight-delays"},
        {"project_slug": "other"},
        {"description": "Another sentence."},
        {"author": "Someone Else"},
        {"problem_type": "regression"},
    ],
)
def test_every_prompt_changes_a_rendered_file(bake: Bake, answers: dict[str, str]) -> None:
    default, other = bake(), bake(**answers)
    assert files_in(default.project_path) != files_in(other.project_path)


def test_unknown_answers_fail(bake: Bake) -> None:
    with pytest.raises(pytest.fail.Exception, match="no problem_kind"):
        bake(problem_kind="regression")


def test_unknown_choice_is_refused(bake: Bake) -> None:
    assert bake(problem_type="clustering").exception is not None
