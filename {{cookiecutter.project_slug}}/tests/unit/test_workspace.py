"""What the workflows ask the workspace, of a command line that is told what to answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ci import workspace
from ci.errors import CiError

IDS = {
    "jobs": {"loop": {"id": "7"}},
    "registered_models": {"model": {"id": "prod.p.model"}},
    "volumes": {"state": {"id": "prod.p.state"}},
}
AS_OF = "2024-11-01T06:00:00Z"
MILLISECONDS = 1_730_440_800_000  # of that moment
DAY = 86_400_000


class Databricks:
    """Stands in for the program: answers by its first words, fails where it is told to."""

    def __init__(self) -> None:
        """A bundle is deployed, its model has versions, and nothing ran."""
        self.answers: dict[str, Any] = {
            "bundle summary": {"resources": IDS},
            "model-versions list": [{"version": 2}, {"version": 10}],
            "registered-models get": {"aliases": [{"alias_name": "champion", "version_num": 2}]},
            "jobs list-runs": [],
        }
        self.asked: list[list[str]] = []
        self.fails = ""

    def __call__(self, command: list[str], **_: Any) -> SimpleNamespace:
        """Answer a command."""
        words = command[1:]
        self.asked.append(words)
        verb = " ".join(words[:2])
        answer = self.answers.get(verb)
        said = "" if answer is None else json.dumps(answer)
        return SimpleNamespace(returncode=int(verb == self.fails), stdout=said)

    def runs(self) -> list[list[str]]:
        """Jobs that were run."""
        return [words for words in self.asked if words[:2] == ["bundle", "run"]]


@pytest.fixture
def databricks(monkeypatch: pytest.MonkeyPatch) -> Databricks:
    program = Databricks()
    monkeypatch.setattr(subprocess, "run", program)
    return program


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_the_newest_version_is_the_greatest_number(databricks: Databricks, outputs: Path) -> None:
    workspace.main(["newest", "prod", str(outputs)])
    assert outputs.read_text() == "version=10\n"
    assert databricks.asked == [
        ["bundle", "summary", "--target", "prod", "--output", "json"],
        ["model-versions", "list", "prod.p.model", "--output", "json"],
    ]


@pytest.mark.parametrize(
    ("aliases", "said"),
    [
        ([], None),
        ([{"alias_name": "challenger", "version_num": 2}], None),
        ([{"alias_name": "champion", "version_num": 10}], None),
        ([{"alias_name": "challenger", "version_num": 10}], "waiting=10\n"),
    ],
)
def test_only_the_newest_version_waits(
    databricks: Databricks, outputs: Path, aliases: list[dict[str, Any]], said: str | None
) -> None:
    databricks.answers["registered-models get"] = {"aliases": aliases}
    workspace.main(["waiting", "prod", str(outputs)])
    assert (outputs.read_text() if outputs.exists() else None) == said
    assert "--include-aliases" in databricks.asked[-1]


def test_a_day_that_went_well_is_left(
    databricks: Databricks, capsys: pytest.CaptureFixture[str]
) -> None:
    well = {"state": {"result_state": "SUCCESS"}, "run_page_url": "https://there/run/1"}
    databricks.answers["jobs list-runs"] = [{"state": {"result_state": "FAILED"}}, well]
    workspace.main(["day", "prod", AS_OF])
    span = [f"--start-time-from={MILLISECONDS - DAY}", f"--start-time-to={MILLISECONDS}"]
    assert databricks.asked[-1][:5] == ["jobs", "list-runs", "--job-id=7", *span]
    assert databricks.runs() == []
    assert "https://there/run/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "states", [[], [{"life_cycle_state": "RUNNING"}], [{"result_state": "FAILED"}]]
)
def test_a_day_that_did_not_is_run(databricks: Databricks, states: list[dict[str, str]]) -> None:
    databricks.answers["jobs list-runs"] = [{"state": state} for state in states]
    workspace.main(["day", "prod", AS_OF])
    (run,) = databricks.runs()
    assert run[2:] == ["--target", "prod", "loop", "--", f"--as_of={AS_OF}"]


def test_a_day_that_fails_is_red(databricks: Databricks) -> None:
    databricks.fails = "bundle run"
    with pytest.raises(CiError, match=r"`databricks bundle run --target prod loop .*` failed"):
        workspace.main(["day", "prod", "2024-11-01T06:00"])


def test_reports_come_from_the_volume(databricks: Databricks) -> None:
    workspace.main(["reports", "staging", "reports"])
    source = "dbfs:/Volumes/prod/p/state/reports"
    assert databricks.asked[-1] == ["fs", "cp", "--recursive", "--overwrite", source, "reports"]


def test_what_is_missing_is_said(databricks: Databricks, outputs: Path) -> None:
    databricks.answers["model-versions list"] = None
    with pytest.raises(CiError, match=r"prod.p.model has no version yet"):
        workspace.main(["newest", "prod", str(outputs)])
    databricks.answers["bundle summary"] = {}
    with pytest.raises(CiError, match="registered_models model is not deployed"):
        workspace.main(["waiting", "prod", str(outputs)])
    databricks.fails = "bundle summary"
    with pytest.raises(CiError, match=r"`databricks bundle summary .*` failed"):
        workspace.main(["newest", "prod", str(outputs)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["newest"], "Usage"), (["day", "prod", "tomorrow"], "tomorrow is no moment")],
)
def test_nonsense_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(CiError, match=said):
        workspace.main(arguments)


def test_without_the_program_the_login_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CiError, match="no `databricks` on the PATH: the login puts it there"):
        workspace.main(["newest", "prod", "outputs"])
