"""Self-contained HTML pages: Jinja templates, Vega-Lite charts as inline SVG, no script."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ..core.words import counted

INDEX = "index.html"
_MARKS_OWN_NAMES = re.compile(r' (?:role="graphics-|aria-label="|aria-roledescription=")[^"]*"')
# Pixels of a chart's plot, on a desk and on a phone.
WIDE = 720
NARROW = 250


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
    said = (number, moment, cell, as_found, percent, counted)
    environment.filters |= {function.__name__: function for function in said}
    return environment.get_template(template).render(**{"generated": datetime.now(UTC), **context})


def number(value: float | None) -> str:
    """A number for a person: whole numbers with separators, others with three decimals."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def percent(value: float | None) -> str:
    """A share for a person, in percent."""
    return "–" if value is None else f"{100 * value:.1f} %"


def moment(value: datetime) -> str:
    """A moment for a person, to the minute."""
    return f"{value:%Y-%m-%d %H:%M}"


def cell(value: object) -> str:
    """Any value for a person."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return moment(value)
    return number(value) if isinstance(value, float) else str(value)


def as_found(value: object) -> str:
    """A value of a table as it stands there: nothing is rounded, zeros stay."""
    if value is None:
        return "–"
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else str(value)


def stamp(value: datetime) -> str:
    """A moment as part of a file's name."""
    return f"{value:%Y%m%dT%H%M}"


def write(path: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def chart(
    name: str, rows: pl.DataFrame, title: str, width: int = WIDE, **options: Any
) -> dict[str, Any]:
    """A Vega-Lite chart of one of the templates (intervals, calibration, ...), over rows."""
    spec = render(f"{name}.vl.json.jinja", title=title, width=width, **options)
    config = json.loads(render("theme.json"))
    return {**json.loads(spec), "config": config, "data": {"values": rows.to_dicts()}}


def figure(description: str, wide: dict[str, Any], narrow: dict[str, Any]) -> Markup:
    """A chart drawn twice, for a desk and for a phone: each screen shows the one that fits."""
    drawings = Markup()
    for kind, spec in {"narrow": narrow, "wide": wide}.items():
        drawings += Markup('<div class="{}">{}</div>').format(kind, svg(spec, description))
    return drawings


def both(name: str, rows: pl.DataFrame, title: str, description: str, **options: Any) -> Markup:
    """A figure whose two drawings show the same rows."""
    wide, narrow = (chart(name, rows, title, width, **options) for width in (WIDE, NARROW))
    return figure(description, wide, narrow)


def svg(spec: dict[str, Any], description: str) -> Markup:
    """Draw a chart as SVG with one text alternative, in the place of one per mark."""
    label = f'<svg role="img" aria-label="{Markup.escape(description)}" '
    drawn = _MARKS_OWN_NAMES.sub("", vl_convert.vegalite_to_svg(spec))
    return Markup(drawn.replace("<svg ", label, 1))  # noqa: S704 drawn here, from numbers


def png(spec: dict[str, Any]) -> bytes:
    """Draw a chart as PNG on white, for places that show pictures only."""
    return bytes(vl_convert.vegalite_to_png({**spec, "background": "white"}, scale=2))
