"""Self-contained HTML pages: Jinja templates, charts as inline SVG; nothing is loaded, no script runs."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

QUIET, OURS, THEIRS = "#7a8494", "#2f6fde", "#d9822b"
_WIDTH = 560
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "Arial, Helvetica, Liberation Sans, sans-serif",
    "padding": {"left": 28, "top": 8, "right": 16, "bottom": 5},  # a reader's font may be wider than the one measured
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": QUIET},
    "axisX": {"tickCount": 6},
    "axisQuantitative": {"gridOpacity": 0.25},
}


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


def svg(chart: Any, description: str) -> Markup:
    """Draw a chart as SVG with a text alternative."""
    drawing = vl_convert.vegalite_to_svg(chart.to_dict() | {"config": _CONFIG})
    return Markup(drawing.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(description)}" ', 1))  # noqa: S704


def png(chart: Any) -> bytes:
    """Draw a chart as PNG on white, for places that show pictures only."""
    return vl_convert.vegalite_to_png(chart.to_dict() | {"config": _CONFIG, "background": "white"}, scale=2)


def interval_chart(rows: Any, category: str, title: str) -> Any:
    """`value` with `lower` and `upper` by category, `reference` as a tick."""
    base = alt.Chart(rows).encode(y=alt.Y(f"{category}:N", title=None, sort=None))
    span = base.mark_rule(color=OURS, strokeWidth=2).encode(
        x=alt.X("lower:Q", title=title, scale=alt.Scale(zero=False)), x2="upper:Q"
    )
    point = base.mark_point(color=OURS, filled=True, size=60).encode(x="value:Q")
    tick = base.mark_tick(color=THEIRS, thickness=3, size=14).encode(x="reference:Q")
    return alt.layer(span, point, tick).properties(width=_WIDTH)


def calibration_chart(rows: Any, unit: str, by: str | None = None) -> Any:
    """`observed` against `predicted`, a line for each value of `by`; a trustworthy model lies on the diagonal."""
    base = alt.Chart(rows).encode(x=alt.X("predicted:Q", title=f"predicted: {unit}"))
    color = (
        alt.Color(f"{by}:N", title=None, sort=None, scale=alt.Scale(range=[OURS, THEIRS])) if by else alt.value(OURS)
    )
    points = base.mark_line(point={"filled": True, "size": 60}).encode(color=color)
    diagonal = base.mark_line(color=QUIET, strokeDash=[4, 4]).encode(y="predicted:Q")
    line = points.encode(y=alt.Y("observed:Q", title="observed"))
    return alt.layer(diagonal, line).properties(width=_WIDTH, height=320)


def bar_chart(rows: Any, category: str, value: str) -> Any:
    """Horizontal bars, in the order given."""
    y = alt.Y(f"{category}:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    return alt.Chart(rows).mark_bar(color=OURS).encode(y=y, x=f"{value}:Q").properties(width=_WIDTH)
