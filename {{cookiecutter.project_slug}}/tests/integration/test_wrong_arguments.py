"""Every verb with every wrong argument: one message, a non-zero exit, no traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.core.project import SECRET_VARIABLE

from tests.conftest import ROOT, copy_project, wait_for

Run = Callable[..., tuple[int, str, str]]

MOMENTS = ("yesterday", "2021-13-01", "0001-01-01T00:00+14:00", "")
LENGTHS = ("x", "0d", "7", "-7d", "99999d", "")
VERSIONS = ("9", "0", "-1", "one", "1 OR 1=1", "")
PORTS = ("0", "65536", "http")
WRONG: dict[str, tuple[str, ...]] = {
    "--env": ("nope", "base", "../test", ""),
    "--as-of": MOMENTS,
    "--since": MOMENTS,
    "--from": MOMENTS,
    "--to": MOMENTS,
    "--version": VERSIONS,
    "--who": ("", " "),
    "--why": ("", " "),
    "--input": ("missing.parquet", "rows.txt", "nowhere://host/database", "conf", ""),
    "--query": ("SELECT 1",),
    "--output": ("conf/base.yml/dashboard", "conf/base.yml"),
    "--outputs": ("conf",),
    "--port": PORTS,
    "--every": LENGTHS,
    "--schedule": LENGTHS,
    "--host": ("not a host",),
    "--start": ("no-such-command now",),
    "--on-change": ("maybe", ""),
    "--label": ("no_such_column", ""),
    "--time": ("no_such_column",),
    "--key": ("no_such_column",),
    "--problem-type": ("cubism",),
    "--workers": ("0", "257", "many"),
    "--scope": ("everything", ""),
    "--revoke": ("some", ""),
}
# What a verb cannot do without.
NEEDED = {
    "approve": ("--why", "good"),
    "reject": ("--why", "bad"),
    "rollback": ("--why", "bad"),
    "send": ("--input", "nowhere.csv"),
    "token": ("ann",),
}


def verbs() -> dict[str, Any]:
    """Every command of the command line."""
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def wrong_calls() -> Iterator[tuple[str, ...]]:
    """Every verb with each of its options, each with every wrong value."""
    for verb, command in verbs().items():
        names = options(command)
        for name in names:
            for value in WRONG[name]:
                given = NEEDED.get(verb, ())
                kept = () if name in given else given
                env = () if name == "--env" or "--env" not in names else ("--env", "test")
                yield (verb, *env, *kept, name, value)
        yield (verb, "--no-such-option")
        yield (verb, *NEEDED.get(verb, ()), "surplus")


def options(command: Any) -> list[str]:
    """Options of a verb that take a value."""
    return [
        parameter.opts[0]
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.is_flag
    ]


def test_every_option_has_wrong_values() -> None:
    assert {name for command in verbs().values() for name in options(command)} == set(WRONG)


def test_the_readme_says_what_every_verb_does() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## The loop")[2].partition("\n## ")[0]
    told = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    said = {name for verb in told for name in re.findall(r"`([a-z]+)`", verb)}
    ours = {name for name, verb in verbs().items() if verb.callback.__module__ == cli.__name__}
    assert said == ours


def test_wrong_arguments_end_in_one_message(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "secret")
    monkeypatch.setattr(webbrowser, "open", lambda address: True)
    (project / "rows.txt").write_text("1", encoding="utf-8")
    bearable = set()
    for call in wrong_calls():
        code, out, err = run(*call)
        assert "Traceback" not in err, call
        if code == 0:
            bearable.add(call)
        else:
            assert code in (1, 2), call
            # An examination prints all that it found; other verbs have one message.
            said = out if call[0] == "doctor" else err
            assert code == 2 or said.count("✗") == said.count("→") > 0, (call, said)
            assert call[0] == "doctor" or said.count("✗") <= 1, (call, said)
    assert bearable == set()


def test_every_verb_that_opens_an_environment_rewrites_the_index(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given verbs that stop at their first step: the data begin later, and the port is taken
    monkeypatch.setenv("AS_OF", "2000-01-01")
    monkeypatch.setattr(webbrowser, "open", lambda address: True)
    index = project / ".data" / "test" / "reports" / "index.html"
    index.parent.mkdir(parents=True)
    left = set()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ("--port", str(taken.getsockname()[1]))
        stopped = {"replay": ("--from", "2000-01-01"), "serve": port, "webhook": port}
        # when
        for verb in verbs():
            index.unlink(missing_ok=True)
            given = (*NEEDED.get(verb, ()), *stopped.get(verb, ()))
            run(verb, *given, *(() if verb == "adopt" else ("--env", "test")))
            if not index.is_file():
                left.add(verb)
    # then only those are left that open none, and that only look
    assert left == {"adopt", "doctor"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_an_interrupted_training_ends_without_a_traceback(
    tmp_path: Path,
) -> None:
    # given a verb that is at work
    folder = copy_project(tmp_path / "my project")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", str(cli.__package__), "run", "--env", "test"]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        journal = folder / ".data" / "test" / "studies.log"
        assert wait_for(lambda: journal.exists() or process.poll() is not None)
        # when it is interrupted in its search
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    # then
    assert process.returncode == 130, err
    assert "Traceback" not in err
