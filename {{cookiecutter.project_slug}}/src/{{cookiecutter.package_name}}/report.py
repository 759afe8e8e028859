"""Self-contained HTML pages: Jinja templates, charts as inline SVG; nothing is loaded, no script runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

INK, MODEL_COLOR, BASELINE_COLOR = "#5b6472", "#2f6fde", "#d9822b"
_WIDTH = 560
_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "axisX": {"gridOpacity": 0.25},
    "axisY": {"gridOpacity": 0.25},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 300},
}


def render(template: str, **context: Any) -> str:
    """Fill a template of the package with values; HTML is escaped, a missing value is an error."""
    folder = files(__package__) / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "moment": moment}
    return environment.get_template(template).render(**context)


def number(value: float | None, digits: int = 3) -> str:
    """A number for a person: thousands separated, `digits` decimals where it is small."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if isinstance(value, int) else f"{value:,.{digits}f}"


def moment(value: datetime) -> str:
    """A moment for a person, to the minute, UTC."""
    return f"{value:%Y-%m-%d %H:%M}"


def svg(chart: alt.TopLevelMixin, description: str) -> Markup:
    """Draw a chart as SVG with a text alternative."""
    drawing = vl_convert.vegalite_to_svg(_spec(chart))
    label = Markup.escape(description)
    return Markup(drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))  # noqa: S704


def png(chart: alt.TopLevelMixin) -> bytes:
    """Draw a chart as PNG on white, for places that show pictures only."""
    return vl_convert.vegalite_to_png(_spec(chart) | {"background": "white"}, scale=2)


def write(path: Path, page: str) -> Path:
    """Write a page, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)


def _spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()
    return spec | {"config": _CONFIG}


def interval_chart(rows: Any, category: str, title: str) -> alt.LayerChart:
    """Values with intervals per category, and the baseline as a tick.

    Args:
        rows: Frame with `category`, `model`, `lower`, `upper`, `baseline`.
        category: Column for the vertical axis.
        title: Of the horizontal axis.
    """
    base = alt.Chart(rows).encode(y=alt.Y(f"{category}:N", title=None, sort=None))
    scale = alt.Scale(zero=False)
    span = base.mark_rule(color=MODEL_COLOR, strokeWidth=2).encode(
        x=alt.X("lower:Q", title=title, scale=scale), x2="upper:Q"
    )
    point = base.mark_point(color=MODEL_COLOR, filled=True, size=60).encode(x="model:Q")
    tick = base.mark_tick(color=BASELINE_COLOR, thickness=3, size=14).encode(x="baseline:Q")
    return alt.layer(span, point, tick).properties(width=_WIDTH)


def calibration_chart(rows: Any, unit: str) -> alt.LayerChart:
    """Mean outcome against mean prediction; a trustworthy model lies on the diagonal."""
    points = (
        alt.Chart(rows)
        .mark_line(color=MODEL_COLOR, point={"filled": True, "color": MODEL_COLOR, "size": 60})
        .encode(
            x=alt.X("predicted:Q", title=f"predicted: {unit}"),
            y=alt.Y("observed:Q", title="observed"),
        )
    )
    diagonal = (
        alt.Chart(rows)
        .mark_line(color=INK, strokeDash=[4, 4])
        .encode(x="predicted:Q", y="predicted:Q")
    )
    return alt.layer(diagonal, points).properties(width=_WIDTH, height=320)


def bar_chart(rows: Any, category: str, value: str, title: str) -> alt.Chart:
    """Horizontal bars, in the order given."""
    return (
        alt.Chart(rows)
        .mark_bar(color=MODEL_COLOR)
        .encode(
            y=alt.Y(f"{category}:N", title=None, sort=None, axis=alt.Axis(labelLimit=260)),
            x=alt.X(f"{value}:Q", title=title),
        )
        .properties(width=_WIDTH)
    )
