"""The workflow of pull requests, executed: green, and red for each reason that it has."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
from stage import REPOSITORY, Run, Stage

pytestmark = pytest.mark.act

GREEN = dict.fromkeys(
    ("lint", "types", "unit", "integration", "model", "ready", "comment"), "success"
)
NUMBER = 7
ONE_PYTHON = ("--matrix", "python:3.12")


def pull_request(stage: Stage, *options: str, fork: bool = False, body: str = "") -> Run:
    """Run what a pull request of the branch that the stage stands on would run."""
    # What the event names as its base was the newest commit of main when it was opened.
    opened_on = stage.git("rev-list", "--max-parents=0", "HEAD").split()[0]
    change = stage.merge("main")
    repository = "stranger/flight-delays" if fork else REPOSITORY
    request: dict[str, Any] = {
        "number": NUMBER,
        "base": {"ref": "main", "sha": opened_on},
        "head": {"ref": "change", "sha": change, "repo": {"full_name": repository, "fork": fork}},
    }
    labels = [{"name": "model-override"}] if body else []
    stage.github.pulls[NUMBER] = {"labels": labels, "body": body}
    payload = {"pull_request": request, "number": NUMBER, "repository": {"full_name": REPOSITORY}}
    return stage.run("pull-request", "pull_request", payload, "ann", *options)


def report(stage: Stage) -> str:
    (comment,) = stage.github.comments[NUMBER]
    return str(comment["body"])


def test_a_good_pull_request_is_green_and_says_so(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A word", **{"docs/word.md": "A word.\n"})
    done = pull_request(stage)
    assert done.jobs == GREEN, done.output
    text = report(stage)
    assert "## ✅ Ready to merge" in text
    assert all(f"| unit-{python} | " in text for python in ("3.11", "3.12", "3.13"))
    assert all(f"| {suite} | 1 | 0 | 0 |" in text for suite in ("problem", "integration", "gates"))
    assert (
        "✅ As far as this sample can tell, the model is as good as that of the target branch"
        in text
    )
    assert "(gain 0.0000, 0.0000 to 0.0000)" in text.replace("\\", "")
    assert stage.github.changes == [("POST", f"/issues/{NUMBER}/comments")]


FAULTS = {
    "lint": ("src/flight_delays/extra.py", "import os\n"),
    "types": ("src/flight_delays/problem/extra.py", '"""Extra."""\n\nCOUNT: int = "one"\n'),
    "unit": ("tests/unit/test_extra.py", "def test_extra() -> None:\n    assert 1 + 1 == 3\n"),
    "gates": ("tests/gates/test_extra.py", "def test_extra() -> None:\n    assert 1 + 1 == 3\n"),
}


def test_faults_are_red_and_stop_what_comes_after(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "Faults", **dict(FAULTS[job] for job in ("lint", "types", "unit")))
    stage.github.changes.clear()
    done = pull_request(stage, *ONE_PYTHON)
    # then each of the three is red, nothing after them ran, and the check that counts is red
    red = ("lint", "types", "unit", "ready")
    assert done.jobs == dict.fromkeys(red, "failure") | {"comment": "success"}, done.output
    said = report(stage)
    found = re.search(r"## ❌ Not ready to merge: (.+)\n", said)
    assert found
    assert set(found[1].split(", ")) == {"lint", "types", "unit", "integration", "model"}
    assert "tests.unit.test\\_extra.test\\_extra" in said
    # and the comment was brought up to date, not repeated
    assert stage.github.changes == [("PATCH", f"/issues/comments/{1000 * NUMBER}")]


def test_a_gate_that_does_not_shut_is_red_and_no_stranger_gets_a_comment(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    stage.commit("change", "A gate stays open", **dict([FAULTS["gates"]]))
    stage.github.changes.clear()
    done = pull_request(stage, *ONE_PYTHON, fork=True)
    green = dict.fromkeys(("lint", "types", "unit"), "success")
    assert done.jobs == green | {"integration": "failure", "ready": "failure"}, done.output
    assert "| gates | 1 | 1 | 0 |" in done.output
    assert stage.github.changes == []


def test_a_worse_model_is_red_and_a_reason_overrides_its_gate(stage: Stage) -> None:
    stage.branch("change", "origin/main")
    declared = "src/flight_delays/problem/model.py"
    stage.edit(
        declared,
        '    features=("carrier", "origin", "dest", *_OF_THE_ROW, *_STORED),',
        '    features=("carrier",),',
    )
    stage.edit(
        declared,
        '_CATEGORICAL = ("carrier", "origin", "dest", "manufacturer")',
        '_CATEGORICAL = ("carrier",)',
    )
    stage.commit("change", "Look at the carrier only")
    done = pull_request(stage, *ONE_PYTHON, body="Why.\r\nModel override: a leak is gone\r\n")
    # then the job is red, and what counts is not, because somebody said why
    assert done.jobs == GREEN | {"model": "failure"}, done.output
    said = report(stage)
    assert "❌ The model is worse than that of the target branch" in said
    assert "## ✅ Ready to merge" in said
    assert "The model's gate was overridden: a leak is gone" in said


@pytest.mark.parametrize(
    ("labels", "body", "why"),
    [
        (["model-override"], "Model override: a leak is gone", "a leak is gone"),
        (["model-override", "other"], "A\r\nModel override:  two words\r\nB", "two words"),
        (["model-override"], "Model override:\r\nnothing", ""),
        (["model-override"], '<!-- begins with "Model override:" -->', ""),
        (["model-override"], None, ""),
        (["other"], "Model override: no label", ""),
        ([], "Model override: no label", ""),
    ],
)
def test_what_counts_as_a_reason_to_override(
    stage: Stage, labels: list[str], body: str | None, why: str
) -> None:
    text = (stage.work / ".github/workflows/pull-request.yml").read_text(encoding="utf-8")
    found = re.search(r"pulls/\$number\" --jq '(.+)'\)", text)
    assert found
    request = json.dumps({"labels": [{"name": name} for name in labels], "body": body})
    command = [str(stage.act.parent / "gojq"), "--raw-output", found[1]]
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == why
