"""The files of a problem, written from what is assumed of its table."""

from __future__ import annotations

import json
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any

import jinja2

from ..core.contract import Form
from ..core.project import PACKAGE
from .assume import LABEL, Assumed
from .columns import Role

_WIDTH = 100
_METRICS = {
    "binary_classification": ("ROC_AUC", "AVERAGE_PRECISION", "LOG_LOSS", "BRIER"),
    "multiclass_classification": ("MACRO_ROC_AUC", "LOG_LOSS", "BRIER", "ACCURACY"),
    "regression": ("RMSE", "MAE", "R2"),
}
_CALENDAR = {
    "hour": 'time.dt.hour().cast(nw.Int64).alias("hour")',
    "weekday": 'time.dt.weekday().cast(nw.Int64).alias("weekday")',
    "month": 'time.dt.month().cast(nw.Int64).alias("month")',
    "hour_of_day": 'time.dt.hour().cast(nw.Int64).alias("hour_of_day")',
    "day_of_week": 'time.dt.weekday().cast(nw.Int64).alias("day_of_week")',
    "month_of_year": 'time.dt.month().cast(nw.Int64).alias("month_of_year")',
}


_WITH_TEXTS = ("sources.py", "target.py")  # of the table, of any length
_ROLES: dict[str, Role] = {
    "NUMBERS": "number",
    "FLAGS": "flag",
    "TEXTS": "text",
    "DATES": "date",
}


@dataclass(frozen=True)
class Budget:
    """A search that fits the number of rows."""

    leaves: tuple[int, int]
    rows_in_leaf: tuple[int, int]


def files(assumed: Assumed) -> dict[PurePosixPath, str]:
    """Contents by path, relative to the project."""
    problem = PurePosixPath("src", PACKAGE, "problem")
    places = {
        "init.py": problem / "__init__.py",
        "sources.py": problem / "sources.py",
        "target.py": problem / "target.py",
        "model.py": problem / "model.py",
        "README.md": problem / "README.md",
        "checks.py": PurePosixPath("tests", "problem", f"test_{assumed.table}.py"),
        "test.yml": PurePosixPath("conf", "test.yml"),
        "replay.yml": PurePosixPath("conf", "replay.yml"),
    }
    written = {place: _render(name, assumed) for name, place in places.items()}
    notebook = PurePosixPath("notebooks", "exploration.ipynb")
    return {**written, notebook: _notebook(_render("exploration.py", assumed))}


def settings(assumed: Assumed) -> str:
    """What a problem decides in `conf/base.yml`."""
    return _render("base.yml", assumed)


def _render(name: str, assumed: Assumed) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(f"{PACKAGE}.adoption"),
        autoescape=False,  # noqa: S701 Python and YAML, no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "imports": imports,
        "items": items,
        "moment": moment,
        "text": text,
        "words": words,
    }
    rendered = environment.get_template(f"{name}.jinja").render(
        assumed=assumed,
        budget=_budget(assumed.part_rows),
        calendar={name: _CALENDAR[name] for name in assumed.calendar},
        form=_form(assumed.form),
        inputs=_inputs(assumed),
        metrics=_METRICS[assumed.kind],
        outcomes=f"{LABEL}s",
        package=PACKAGE,
        key_names=tuple(assumed.key_types),
    )
    return _with_exemptions(rendered) if name in _WITH_TEXTS else rendered


def _form(form: Form) -> list[str]:
    """Arguments of a form that differ from its defaults."""
    given = []
    for field in fields(Form):
        value = getattr(form, field.name)
        if value == getattr(Form(), field.name):
            continue
        if isinstance(value, Mapping):
            before = "    " + field.name + "={"
            given.append(items(value, before, "}").lstrip())
        else:
            given.append(f"{field.name}={text(value)}")
    return given


def _inputs(assumed: Assumed) -> dict[str, list[str]]:
    """Inputs by the constant that lists them in `sources.py`."""
    by_name = {name: assumed.names(role) for name, role in _ROLES.items()}
    return {name: columns for name, columns in by_name.items() if columns}


def _budget(rows: int) -> Budget:
    """Parameters to try: what few rows cannot tell is not asked of them."""
    least = max(2, min(50, rows // 100))
    most = max(2 * least, min(1_000, rows // 10))
    return Budget(leaves=(4, max(8, min(127, rows // 20))), rows_in_leaf=(least, most))


# Python as the formatter lays it out ------------------------------------------------------------


def text(value: str) -> str:
    """A string literal, in the quotes that need the fewest escapes."""
    literal = repr(value)
    if literal.startswith("'") and '"' not in value:
        return f'"{literal[1:-1]}"'
    return literal


def words(names: Iterable[str], before: str) -> str:
    """A list of names as one string that is split; over several lines where one is too short."""
    joined = " ".join(names)
    line = f'{before}"{joined}".split()'
    if len(line) <= _WIDTH:
        return line
    room = _WIDTH - len('    ""')
    lines = textwrap.wrap(joined, room - 1) if len(joined) > room else [joined]
    lines = [f"{line} " for line in lines[:-1]] + lines[-1:]
    quoted = "\n".join(f'    "{line}"' for line in lines)
    return f"{before}(\n{quoted}\n).split()"


def items(given: Iterable[str] | Mapping[str, str], before: str, after: str) -> str:
    """Expressions between brackets: in one line if they fit, else each on its own.

    Args:
        given: Expressions, or texts by texts.
        before: What comes before them, to the opening bracket.
        after: What comes after them, from the closing bracket.
    """
    parts = list(given)
    if isinstance(given, Mapping):
        parts = [f"{text(key)}: {text(value)}" for key, value in given.items()]
    comma = "," if len(parts) == 1 and before.endswith("= (") else ""
    line = f"{before}{', '.join(parts)}{comma}{after}"
    if _width(line) <= _WIDTH:
        return line
    indent = before[: len(before) - len(before.lstrip())]
    is_call = before.endswith("(") and before[-2:-1].isalnum()
    inside = f"{indent}    {', '.join(parts)}"
    if is_call and _width(inside) <= _WIDTH:
        return f"{before}\n{inside}\n{indent}{after}"
    inner = "".join(f"{indent}    {part},\n" for part in parts)
    return f"{before}\n{inner}{indent}{after}"


def imports(names: Iterable[str], module: str) -> str:
    """An import of names: constants, then classes, then functions."""
    ordered = sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    line = f"from {module} import {', '.join(ordered)}"
    return line if _width(line) <= _WIDTH else items(ordered, f"from {module} import (", ")")


def moment(value: Any) -> str:
    """A moment as it is made."""
    parts = [value.year, value.month, value.day]
    if value.hour:
        parts.append(value.hour)
    return f"datetime({', '.join(map(str, parts))}, tzinfo=UTC)"


def _with_exemptions(code: str) -> str:
    """Lines that a long text makes too long, which no formatter breaks, say so."""
    lines = []
    for line in code.split("\n"):
        is_word = " " not in line.strip()  # which no linter expects to be broken
        is_long = _width(line) > _WIDTH and not is_word
        lines.append(f"{line}  # noqa: E501" if is_long else line)
    return "\n".join(lines)


def _width(line: str) -> int:
    """Columns of a line; some letters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in line)


# The notebook -----------------------------------------------------------------------------------


def _notebook(source: str) -> str:
    """A notebook from cells that are divided as `# %%` (code) and `# %% [markdown]`."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(source.split("# %%")[1:]):
        kind, _, body = part.partition("\n")
        cell: dict[str, Any] = {"id": str(number), "metadata": {}}
        lines = body.strip("\n").splitlines(keepends=True)
        if "markdown" in kind:
            stripped = [line.removeprefix("# ").removeprefix("#") for line in lines]
            cell |= {"cell_type": "markdown", "source": stripped}
        else:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": [], "source": lines}
        cells.append(dict(sorted(cell.items())))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
