"""Which answers are refused, what the others become, and that none can become code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from names import GOOD_SLUGS, NOT_A_NAME, PACKAGES, REFUSED_SLUGS, REFUSED_TEXTS, TEXTS
from support import NASTY, OPTIONS, PROMPTS, Bake, files_in

import template_answers
from template_answers import (
    SLUG,
    AnswerRefused,
    default_slug,
    derived,
    problem_with,
    problem_with_slug,
    problem_with_text,
)

DEFAULTS = {
    "project_name": "Flight Delays",
    "project_slug": "flight-delays",
    "description": "One sentence.",
    "author": "Data Team",
    "problem_type": "regression",
    "contents": "everything",
    "ci": "github",
}
NAMES = [
    *("Flight Delays", "Test", "2024 Sales", "yes", "Null", "Python", "pip", "GitHub", "JSON"),
    *("A Name That Goes On And On Until No Folder Could Be Called Like It", "x" * 100, "日本"),
    *("Über Straßen", "a_b", "a.b", "...", "№ 5", "Ω", "🛫", "con", "class", "Sklearn", "R&D"),
    *("C:\\temp", "../..", "-", "42", "a", "I", "test-project", "12 angry men", "É", "ﬁsh"),
    *NASTY.values(),
]


def each(refused: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(answer, why) for why, answers in refused.items() for answer in answers]


def test_defaults_are_accepted() -> None:
    assert problem_with(DEFAULTS) is None


@pytest.mark.parametrize("slug", GOOD_SLUGS)
def test_good_slugs(slug: str) -> None:
    assert problem_with(DEFAULTS | {"project_slug": slug}) is None


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("option", template_answers.FREE_TEXTS)
def test_good_texts(option: str, kind: str) -> None:
    for text in (*TEXTS[kind], *NASTY.values()):
        assert problem_with(DEFAULTS | {option: text}) is None, text


@pytest.mark.parametrize("slug", NOT_A_NAME)
def test_slugs_that_are_no_name_are_refused(slug: str) -> None:
    assert "is no valid name" in str(problem_with(DEFAULTS | {"project_slug": slug}))


@pytest.mark.parametrize(("slug", "why"), each(REFUSED_SLUGS))
def test_slugs_that_are_taken_are_refused(slug: str, why: str) -> None:
    problem = str(problem_with(DEFAULTS | {"project_slug": slug}))
    assert problem.startswith(f"project_slug '{slug}'")
    assert why in problem


@pytest.mark.parametrize(("package", "why"), each(PACKAGES))
def test_packages_that_python_has_are_refused(package: str, why: str) -> None:
    assert why in str(problem_with_slug(package.replace("_", "-")))


@pytest.mark.parametrize(("text", "why"), each(REFUSED_TEXTS))
@pytest.mark.parametrize("option", template_answers.FREE_TEXTS)
def test_texts_that_cannot_be_shown_are_refused(option: str, text: str, why: str) -> None:
    problem = str(problem_with(DEFAULTS | {option: text}))
    assert problem.startswith(option)
    assert why in problem
    assert problem.isprintable()


@given(st.text())
def test_any_text_is_taken_or_refused_in_a_line(text: str) -> None:
    problem = problem_with_text("author", text)
    if problem:
        assert problem.startswith("author")
        assert problem.isprintable()
    else:
        assert text == text.strip()
        assert "\u200b" not in text
        assert len(text.splitlines()) == 1


@given(st.text() | st.from_regex(SLUG, fullmatch=True))
def test_any_slug_is_taken_or_refused_in_a_line(slug: str) -> None:
    problem = problem_with_slug(slug)
    if problem:
        assert len(problem.splitlines()) == 1
    else:
        assert slug.replace("-", "_").isidentifier()
        assert len(slug) <= template_answers.MAX_LENGTH


@given(st.text())
def test_every_name_has_a_slug_that_is_taken(name: str) -> None:
    assert problem_with_slug(default_slug(name)) is None


def test_the_suite_is_as_large_as_it_was_meant_to_be() -> None:
    texts = {text for texts in (*TEXTS.values(), *REFUSED_TEXTS.values()) for text in texts}
    slugs = {slug for slugs in REFUSED_SLUGS.values() for slug in slugs}
    packages = {package for packages in PACKAGES.values() for package in packages}
    assert len(texts) >= 266
    assert len({*slugs, *GOOD_SLUGS, *NOT_A_NAME}) >= 146
    assert len(packages) >= 120


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
    for option in ("problem_type", "platform", "contents", "ci"):
        assert OPTIONS["__prompts__"][option].keys() == {"__prompt__", *OPTIONS[option]}
    assert len(PROMPTS) <= 8


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "Other Name", "project_slug": "flight-delays"},
        {"project_slug": "other"},
        {"description": "Another sentence."},
        {"author": "Someone Else"},
        {"problem_type": "regression"},
        {"platform": "databricks"},
        {"ci": "gitlab"},
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
