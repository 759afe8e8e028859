"""Which answers are refused, and that none can become code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pre_gen_project
import pytest
from cookiecutter.exceptions import FailedHookException
from cookiecutter.utils import create_env_with_context
from support import NASTY, OPTIONS, PROBLEM_TYPES, PROMPTS, Bake, files_in

DEFAULTS = {
    "project_name": "Flight Delays",
    "project_slug": "flight-delays",
    "package_name": "flight_delays",
    "description": "One sentence.",
    "author": "Data Team",
    "problem_type": "regression",
}


def test_defaults_are_accepted() -> None:
    assert pre_gen_project.problem_with(DEFAULTS) is None


@pytest.mark.parametrize("name", ["a", "a1", "a-b-c", "x" * 40, "flight-delays-2"])
def test_good_slugs(name: str) -> None:
    assert pre_gen_project.problem_with(DEFAULTS | {"project_slug": name}) is None


@pytest.mark.parametrize("name", ["a", "a1", "a_b", "a__b", "x" * 40, "trailing_"])
def test_good_packages(name: str) -> None:
    assert pre_gen_project.problem_with(DEFAULTS | {"package_name": name}) is None


@pytest.mark.parametrize("text", [*NASTY.values(), "x", "日本", "'", '"', "\\"])
@pytest.mark.parametrize("option", pre_gen_project.FREE_TEXTS)
def test_good_texts(option: str, text: str) -> None:
    assert pre_gen_project.problem_with(DEFAULTS | {option: text}) is None


@pytest.mark.parametrize(
    ("option", "answer", "why"),
    [
        *(
            ("project_slug", slug, "is no valid name")
            for slug in (
                *(
                    "",
                    "-a",
                    "a-",
                    "a--b",
                    "1a",
                    "A",
                    "a_b",
                    "a.b",
                    "a b",
                    "ä",
                    "a/b",
                    "../a",
                    "..",
                    "~",
                ),
                *("a\n", "a\nb", 'a"b', "a'b", "a\\b", "$(x)", "{{ x }}", "a;b", "a\0b", "ﬁ"),
            )
        ),
        *(
            ("package_name", package, "is no valid name")
            for package in (
                *("", "_a", "1a", "A", "a-b", "a.b", "a b", "ä", "class", "lambda", "a\n", "../a"),
                *('a"; import os #', "a'b", "a\\b", "{{ x }}", "ﬁ", "a²"),
            )
        ),
        ("project_slug", "x" * 41, "41 characters"),
        ("package_name", "x" * 41, "41 characters"),
        ("project_slug", "con", "device on Windows"),
        ("package_name", "lpt1", "device on Windows"),
        ("project_slug", "json", "standard library"),
        ("package_name", "statistics", "standard library"),
        ("project_slug", "polars", "library that the project installs"),
        ("project_slug", "scikit-learn", "library that the project installs"),
        ("package_name", "sklearn", "library that the project installs"),
        ("package_name", "mlflow", "library that the project installs"),
        ("package_name", "tests", "part of the rendered project"),
        ("project_slug", "conf", "part of the rendered project"),
        *(
            (option, text, why)
            for option in pre_gen_project.FREE_TEXTS
            for text, why in (
                ("", "is empty"),
                ("  ", "is empty"),
                (" a", "begins or ends with a space"),
                ("a\nb", "line break or control character"),
                ("a\rb", "line break or control character"),
                ("a\tb", "line break or control character"),
                ("a\x00b", "line break or control character"),
                ("a\x7fb", "line break or control character"),
                ("a\u2028b", "line break or control character"),
                ("a\x85b", "line break or control character"),
                ("a\x1b[31mb", "line break or control character"),
                ("a\ud800b", "line break or control character"),
                ("{{ cookiecutter }}", "template code"),
                ("a {% if x %}", "template code"),
                ("{# a", "template code"),
            )
        ),
    ],
)
def test_bad_answers_are_named_with_their_mend(
    option: str, answer: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pre_gen_project.main(DEFAULTS | {option: answer}) == 1
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.count("\n") == 1
    assert option in printed.err
    assert why in printed.err


@pytest.mark.parametrize(
    "answers",
    [
        {"project_slug": "Not Valid"},
        {"package_name": "class"},
        {"description": "two\nlines"},
        {"author": " "},
    ],
)
def test_rejection_leaves_nothing_behind(
    bake: Bake, answers: dict[str, str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = bake(**answers)
    assert isinstance(result.exception, FailedHookException)
    assert "Cannot render the project:" in capfd.readouterr().err
    assert not any(path.is_file() for path in (tmp_path / "cookies").rglob("*"))


INJECTIONS = [
    '"; open("pwned", "w"); "',
    "'; open('pwned', 'w'); '",
    '")); open("pwned", "w"); print(("',
    '\\")); open("pwned", "w"); print((\\"',
    "'''; open('pwned', 'w'); '''",
    '"""; open("pwned", "w"); """',
    '{{ "".__class__ }}{% for x in y %}',
    "${{ secrets.TOKEN }}",
    "\\N{DIGIT ONE}\\x41\\",
    "</script><b>",
]


@pytest.mark.parametrize("text", INJECTIONS)
@pytest.mark.parametrize("hook", ["pre_gen_project", "post_gen_project"])
def test_no_answer_becomes_code(template: Path, hook: str, text: str, tmp_path: Path) -> None:
    # given a hook as cookiecutter renders it, which then only prints the answers it has read
    answers = DEFAULTS | {"description": text, "author": text, "project_slug": text}
    source = (template / "hooks" / f"{hook}.py").read_text(encoding="utf-8")
    rendered = create_env_with_context({}).from_string(source).render(cookiecutter=answers)
    script = tmp_path / "hook.py"
    script.write_text(rendered.replace("sys.exit(main(", "print(json.dumps("), encoding="utf-8")
    # when
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # then
    assert json.loads(done.stdout) == answers
    assert [path.name for path in tmp_path.iterdir()] == ["hook.py"]


def test_every_prompt_is_worded() -> None:
    assert OPTIONS["__prompts__"].keys() == PROMPTS
    assert OPTIONS["__prompts__"]["problem_type"].keys() == {"__prompt__", *PROBLEM_TYPES}


@pytest.mark.parametrize(
    "answers",
    [
        {"project_name": "Other Name", "project_slug": "flight-delays"},
        {"project_slug": "other", "package_name": "flight_delays"},
        {"package_name": "other"},
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


def test_names_of_all_locked_distributions_are_taken(template: Path) -> None:
    locks = (template / "{{cookiecutter.project_slug}}" / "requirements").glob("*.txt")
    locked = {
        line.split("==")[0].replace("-", "_").replace(".", "_")
        for lock in locks
        for line in lock.read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    assert len(locked) > 100
    assert locked - pre_gen_project.DEPENDENCIES == set()
