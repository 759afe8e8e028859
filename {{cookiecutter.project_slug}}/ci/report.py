"""The report of a change: `python3 -m ci.report RESULTS REPORT`; it fails where a job did.

Reads JUnit files and `comparison.json` from the folder RESULTS, and from variables how the jobs
ended (NEEDS), why the model's gate was overridden (OVERRIDE) and the run's address (RUN). Writes
Markdown to the file REPORT and to the summary of the run.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import CiError, append_to, run
from .forge import CHANGE, MARKER, SUMMARY

GATE = "model"  # the one job that people may override, with a reason
_SHOWN_FAILURES = 20
_SPECIAL = re.compile(r"([\\`*_\[\]<>&~|@#])")
_MARKS = {"success": "✅", "failure": "❌", "cancelled": "⏹️", "skipped": "⏭️"}


def main(arguments: list[str]) -> None:
    """Write the report.

    Raises:
        CiError: Arguments, a file that cannot be read, or a job that did not pass.
    """
    if len(arguments) != 2:
        raise CiError("Usage: python3 -m ci.report RESULTS REPORT")
    folder, page = Path(arguments[0]), Path(arguments[1])
    found = sorted(folder.rglob("comparison.json"))
    comparison = json.loads(found[0].read_text(encoding="utf-8")) if found else None
    results, override = needs(), os.environ.get("OVERRIDE", "").strip()
    link = os.environ.get("RUN", "")
    text = compose(results, read_suites(folder), comparison, link, override)
    page.write_text(text, encoding="utf-8")
    append_to(SUMMARY, text)
    if failed := stopping(results, override):
        raise CiError(f"Not ready to merge: {', '.join(failed)}.")


def needs() -> dict[str, str]:
    """Result of each job, from the variable NEEDS.

    Raises:
        CiError: It does not hold `toJSON(needs)`.
    """
    try:
        given = json.loads(os.environ.get("NEEDS", ""))
        return {str(job): str(ended["result"]) for job, ended in given.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CiError("NEEDS is not what `toJSON(needs)` gives.") from None


def stopping(results: Mapping[str, str], override: str) -> list[str]:
    """Jobs for which nothing may be merged: all that did not pass, skipped ones too."""
    return [
        job
        for job, result in results.items()
        if result != "success" and not (job == GATE and result == "failure" and override)
    ]


def table(results: Mapping[str, str], head: str = "job") -> list[str]:
    """Lines of a Markdown table: how each ended; for what failed, what to do."""
    commands = tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))
    rows = []
    for name, result in results.items():
        known = (commands["advice"].get(word, "") for word in reversed(name.split()))
        what = next(filter(None, known), "") if result == "failure" else ""
        rows.append(f"| {name} | {_MARKS.get(result, '')} {result} | {what} |")
    return [f"| {head} | result | what to do |", "|---|---|---|", *rows]


def compose(
    results: Mapping[str, str],
    suites: Mapping[str, ET.Element],
    comparison: Mapping[str, Any] | None,
    link: str,
    override: str = "",
) -> str:
    """The report: a sentence, the jobs, the tests, the model beside its opponent's."""
    red = stopping(results, override)
    headline = f"## ❌ Not ready to merge: {', '.join(red)}" if red else "## ✅ Ready to merge"
    lines = [MARKER, headline, "", *table(results), "", *_tests(suites), "### Model", ""]
    if override and results.get(GATE) == "failure":
        lines += [f"⚠️ The model's gate was overridden: {plain(override)}", ""]
    lines += (
        _model(comparison)
        if comparison
        else ["No model was compared: the log of the job says why.", ""]
    )
    if link:
        lines.append(f"[Logs, test results and predictions]({link})")
    return "\n".join(lines).rstrip() + "\n"


def read_suites(folder: Path) -> dict[str, ET.Element]:
    """JUnit files by name.

    Raises:
        CiError: One is not XML.
    """
    suites = {}
    for path in sorted(folder.rglob("*.xml")):
        try:
            text = path.read_text(encoding="utf-8")
            suites[path.stem] = ET.fromstring(text)  # noqa: S314 pytest wrote it
        except ET.ParseError as error:
            raise CiError(f"{path.name} is no JUnit file: {error}") from None
    return suites


def _tests(suites: Mapping[str, ET.Element]) -> Iterator[str]:
    yield from ("### Tests", "")
    if not suites:
        yield from ("None ran.", "")
        return
    yield from ("| suite | passed | failed | skipped |", "|---|--:|--:|--:|")
    failures = []
    for name, root in suites.items():
        cases = list(root.iter("testcase"))
        failed = [
            case
            for case in cases
            if case.find("failure") is not None or case.find("error") is not None
        ]
        skipped = sum(case.find("skipped") is not None for case in cases)
        passed = len(cases) - len(failed) - skipped
        yield f"| {plain(name)} | {passed} | {len(failed)} | {skipped} |"
        failures += [f"- {plain(name)}: {plain(_name(case))}" for case in failed]
    yield ""
    yield from failures[:_SHOWN_FAILURES]
    if len(failures) > _SHOWN_FAILURES:
        yield f"- and {len(failures) - _SHOWN_FAILURES} more"
    if failures:
        yield ""


def _name(case: ET.Element) -> str:
    return ".".join(filter(None, (case.get("classname"), case.get("name"))))


def _model(comparison: Mapping[str, Any]) -> Iterator[str]:
    mark = {"better": "📈", "worse": "❌"}.get(comparison["verdict"], "✅")
    yield from (f"{mark} {plain(comparison['sentence'])}", "")
    yield f"| metric | this {CHANGE} | {plain(comparison['opponent'])} | gain |"
    yield "|---|---|---|---|"
    for row in comparison["metrics"]:
        cells = (_interval(row["head"]), _interval(row["base"]), _interval(row["gain"]))
        yield f"| {plain(row['metric'])} | {' | '.join(cells)} |"
    yield from ("", plain(comparison["method"]), "")


def _interval(value: list[float]) -> str:
    return "{:.4f} ({:.4f} to {:.4f})".format(*value)


def plain(text: str) -> str:
    """Text that Markdown shows as it is; names of tests may come from anybody."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))[:300]


if __name__ == "__main__":
    run(main)
