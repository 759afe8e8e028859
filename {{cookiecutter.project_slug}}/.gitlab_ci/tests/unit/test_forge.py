from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ci import forge, gitlab
from ci.errors import CiError
from ci.forge import MARKER

HOST = "https://gitlab.test/api/v4"
PROJECT = f"{HOST}/projects/5"


class Answers:
    """A GitLab that answers as it is told, and remembers what it was sent."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], Any] = {}
        self.sent: list[tuple[str, str, Any]] = []

    def __call__(self, method: str, address: str, body: Any = None, sender: str = "") -> Any:
        self.sent.append((method, address, body))
        return self.known.get((method, address), b"")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Answers:
    """A pipeline in an empty folder, and the GitLab that it asks."""
    monkeypatch.chdir(tmp_path)
    variables = {
        "CI_API_V4_URL": HOST,
        "CI_JOB_TOKEN": "job",
        "CI_MERGE_REQUEST_IID": "3",
        "CI_PROJECT_ID": "5",
        "CI_PROJECT_NAME": "project",
        "NOTE_TOKEN": "note",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = Answers()
    monkeypatch.setattr(gitlab, "ask", made)
    return made


def test_an_error_is_marked() -> None:
    assert forge.marked("no") == "ci: no"


def test_how_tasks_ended_is_known_to_a_later_job(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, python, ends in (
        ("lint", "", True),
        ("types", "", False),
        ("unit", "3.11", True),
        ("unit", "3.12", False),
    ):
        monkeypatch.setenv("PYTHON", python)
        gitlab.main(["begins", task])
        if ends:
            gitlab.main(["passes", task])
    gitlab.main(["needs", "lint", "types", "unit", "model"])
    found = {task: it["result"] for task, it in json.loads(capsys.readouterr().out).items()}
    assert found == {"lint": "success", "types": "failure", "unit": "failure", "model": "skipped"}


@pytest.mark.parametrize(
    ("labels", "description", "why"),
    [
        ("model-override", "Model override: a leak is gone", "a leak is gone"),
        ("other,model-override", "A\r\nModel override:  two words\r\nB", "two words"),
        ("model-override", "Model override:\r\nnothing", ""),
        ("model-override", '<!-- begins with "Model override:" -->', ""),
        ("other", "Model override: no label", ""),
    ],
)
def test_only_a_label_with_a_reason_overrides(labels: str, description: str, why: str) -> None:
    given = {"CI_MERGE_REQUEST_LABELS": labels, "CI_MERGE_REQUEST_DESCRIPTION": description}
    assert gitlab.override(given) == why
    assert gitlab.override({}) == ""


def test_a_note_is_written_once_and_then_over_the_last_one(answers: Answers) -> None:
    file = Path("report.md")
    file.write_text(f"{MARKER}\nnew\n", encoding="utf-8")
    notes = f"{PROJECT}/merge_requests/3/notes"
    pages = f"{notes}?per_page=100&page="
    answers.known = {("GET", f"{HOST}/user"): {"id": 1}, ("GET", f"{pages}1"): []}
    gitlab.main(["note", "report.md"])
    assert answers.sent[-1] == ("POST", notes, {"body": f"{MARKER}\nnew\n"})
    # then there are others' notes, one that begins like ours, and ours on the next page
    theirs = [{"id": 7, "author": {"id": 2}, "body": MARKER}]
    ours = [{"id": 9, "author": {"id": 1}, "body": f"{MARKER}\nold"}]
    answers.known |= {("GET", f"{pages}1"): theirs, ("GET", f"{pages}2"): ours}
    gitlab.main(["note", "report.md"])
    assert answers.sent[-1][:2] == ("PUT", f"{notes}/9")


def test_without_a_token_no_note_is_written(
    answers: Answers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOTE_TOKEN")
    gitlab.main(["note", "report.md"])
    assert "NOTE_TOKEN" in capsys.readouterr().out
    assert answers.sent == []


@pytest.fixture
def released(answers: Answers) -> Answers:
    """A commit that is a release, whose files GitLab keeps."""
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    first = ("commit", "-q", "--allow-empty", "-m", "one")
    for command in (("init", "-q"), first, ("tag", "v1.2.0")):
        subprocess.run([*git, *command], check=True)
    gitlab.DIST.mkdir()
    (gitlab.DIST / "a-1.2.0-py3-none-any.whl").write_bytes(b"wheel")
    Path("reports").mkdir()
    Path("reports", "model_card.md").write_text("card\n", encoding="utf-8")
    gitlab.NOTES.write_text("New.\n", encoding="utf-8")
    gitlab.main(["publish", "v1.2.0"])
    *uploads, (_, place, body) = answers.sent
    assert place == f"{PROJECT}/releases"
    assert [it["name"] for it in body["assets"]["links"]] == [
        "a-1.2.0-py3-none-any.whl",
        "model_card.md",
    ]
    answers.known[("GET", f"{PROJECT}/releases/v1.2.0")] = body
    answers.known |= {("GET", address): content for _, address, content in uploads}
    return answers


def test_the_wheel_of_a_release_comes_back(released: Answers) -> None:
    (gitlab.DIST / "a-1.2.0-py3-none-any.whl").unlink()
    gitlab.main(["fetch"])
    assert gitlab.one_wheel().read_bytes() == b"wheel"


def test_another_wheel_than_the_tested_one_is_refused(released: Answers) -> None:
    for asked in released.known:
        if asked[1].endswith(".whl"):
            released.known[asked] = b"other"
    with pytest.raises(CiError, match="is not the wheel that staging tested"):
        gitlab.main(["fetch"])
    assert list(gitlab.DIST.iterdir()) == []


def test_a_commit_that_is_no_release_is_refused(released: Answers) -> None:
    subprocess.run(["git", "tag", "-d", "v1.2.0"], check=True)
    with pytest.raises(CiError, match="is no release"):
        gitlab.main(["fetch"])


@pytest.mark.parametrize("arguments", [[], ["publish"], ["note", "a", "b"]])
def test_what_is_no_verb_is_refused(arguments: list[str]) -> None:
    with pytest.raises(CiError, match="Usage"):
        gitlab.main(arguments)
