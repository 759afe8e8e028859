"""Self-contained HTML pages: Jinja templates, Vega-Lite charts as inline SVG, no script."""

from __future__ import annotations

import json
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def render(template: str, **context: Any) -> str:
    """Fill a template of the package; HTML is escaped, a missing value is an error."""
    folder = files(__package__) / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "moment": moment, "cell": cell}
    return environment.get_template(template).render(**context)


def number(value: float | None) -> str:
    """A number for a person: whole numbers with separators, others with three decimals."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def moment(value: datetime) -> str:
    """A moment for a person, to the minute."""
    return f"{value:%Y-%m-%d %H:%M}"


def cell(value: object) -> str:
    """Any value for a person."""
    if isinstance(value, datetime):
        return moment(value)
    return number(value) if isinstance(value, float) else str(value)


def write(path: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def chart(name: str, rows: pl.DataFrame, title: str, **options: Any) -> dict[str, Any]:
    """A Vega-Lite chart of one of the templates (intervals, calibration, ...), over rows."""
    spec, theme = render(f"{name}.vl.json.jinja", title=title, **options), render("theme.json")
    return {**json.loads(spec), "config": json.loads(theme), "data": {"values": rows.to_dicts()}}


def svg(spec: dict[str, Any], description: str) -> Markup:
    """Draw a chart as SVG with a text alternative."""
    label = f'<svg role="img" aria-label="{Markup.escape(description)}" '
    return Markup(vl_convert.vegalite_to_svg(spec).replace("<svg ", label, 1))  # noqa: S704 drawn here, from numbers


def png(spec: dict[str, Any]) -> bytes:
    """Draw a chart as PNG on white, for places that show pictures only."""
    return bytes(vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=2))
