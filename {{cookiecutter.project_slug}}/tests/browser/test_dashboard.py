"""Pages in headless Chromium: quiet, self-contained, readable on a phone and in the dark."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from prometheus_client.parser import text_string_to_metric_families

from {{cookiecutter.package_name}} import cli
from {{cookiecutter.package_name}}.context import Context
from {{cookiecutter.package_name}}.core.contract import polars_schema
from {{cookiecutter.package_name}}.core.settings import load_settings
from {{cookiecutter.package_name}}.monitoring.performance import ESTIMATED
from {{cookiecutter.package_name}}.reporting import pages
from {{cookiecutter.package_name}}.store.measurements import (
    BACKTEST,
    DRIFT,
    NEVER,
    PRODUCTION,
    RUN,
    SCHEDULE,
    SERVING,
)
from {{cookiecutter.package_name}}.store.measurements import MONITORING as PRODUCER
from {{cookiecutter.package_name}}.store.tables import (
    ALERTS,
    LOG,
    MEASUREMENTS,
    RETRAININGS,
)

from tests.browser.picture import (
    DRAWN_BY,
    HEIGHT,
    ROOT,
    WIDTH,
    fingerprint,
    fingerprint_of,
    take,
)
from tests.conftest import copy_project, free_port, wait_for
from tests.parcels import PROBLEM

CHECKS = Path(__file__).with_name("checks.js").read_text(encoding="utf-8")
WINDOWS, WEEK = 45, timedelta(days=7)
DASHBOARD = Path(".data", "test", "reports", "dashboard", "index.html")
KINDS = ("index", "dashboard/index", "training", "comparison", "checks", "shift")
LINK = re.compile(r'href="([^#"]+)')
GENERATED = re.compile(r"Generated on .*")
LOOKS: dict[str, tuple[Any, int]] = {
    "light": ("light", 1200),
    "dark": ("dark", 1200),
    "phone": ("light", 390),
    "dark phone": ("dark", 390),
}
FOCUSED = """() => {
  const it = document.activeElement, style = getComputedStyle(it);
  const name = it.getAttribute("href") || it.getAttribute("aria-label") || it.textContent.trim();
  return [name, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""
REACHABLE = """() => [...document.querySelectorAll("a, summary, [tabindex]")].filter(
  (it) => it.getClientRects().length).map(
  (it) => it.getAttribute("href") || it.getAttribute("aria-label") || it.textContent.trim())"""


def measured(rng: np.random.Generator, metric: str, number: int) -> list[dict[str, object]]:
    """A window of the champion: performance, its estimate, drift, one column unknown."""
    low, value = 0.7, 0.74 - number * 0.002
    bounds = {
        "lower": value - 0.02,
        "upper": value + 0.02,
        "threshold": low,
        "rows": 6000,
        "slice": "",
    }
    status = "ok" if value > low else "violated"
    found: list[dict[str, object]] = [
        {"metric": name, "value": value, "status": status, **bounds}
        for name in (metric, f"{ESTIMATED}_{metric}")
    ]
    for position, name in enumerate((*PROBLEM.model.features, "prediction")):
        shift = (
            None
            if position == 5 and number < 3
            else float(rng.gamma(2, 0.02 if position % 4 else 0.06))
        )
        state = "unknown" if shift is None else "violated" if shift > 0.1 else "ok"
        limit = None if shift is None else 0.1
        row = {
            "slice": f"feature={name}",
            "value": shift,
            "threshold": limit,
            "status": state,
            "rows": 6000,
        }
        found.append({"metric": "drift", **row})
    return found


def health() -> list[dict[str, object]]:
    """A window of production."""
    return [
        {
            "metric": "scored",
            "slice": "",
            "value": 0.97,
            "threshold": 0.99,
            "status": "violated",
            "rows": 6100,
        },
        {
            "metric": "batch_latency_ms",
            "slice": "",
            "value": 0.06,
            "threshold": 250.0,
            "status": "ok",
            "rows": 6000,
        },
        {
            "metric": "age_hours",
            "slice": "source=parcels",
            "value": None,
            "threshold": 48.0,
            "status": "unknown",
        },
    ]


def streamed(end: datetime) -> list[dict[str, object]]:
    """An hour of a stream, with a quarter in which requests waited."""
    found: list[dict[str, object]] = []
    for number in range(60):
        is_slow = 20 < number < 35
        lag = 70.0 + number if is_slow else 0.4
        status = "violated" if is_slow else "ok"
        window_end = end - number * timedelta(minutes=1)
        window = {"window_start": window_end - timedelta(minutes=1), "window_end": window_end}
        given = {"producer": SERVING, "subject": "stream", "slice": "", "rows": 3_000, **window}
        measures = (
            ("lag_seconds", lag, 60.0, status),
            ("refused", 0.002, 0.01, "ok"),
            ("rows_per_second", 50.0, None, None),
        )
        for name, value, limit, judged in measures:
            measure = {"metric": f"stream_{name}", "value": value, "threshold": limit}
            found.append(given | measure | {"status": judged})
    return found


def watch(context: Context) -> None:
    """Tables as most of a year of monitoring leaves them."""
    rng, lakehouse, metric = (
        np.random.default_rng(0),
        context.lakehouse,
        PROBLEM.model.target.metrics[0].name,
    )
    found: list[dict[str, object]] = []
    for number in range(WINDOWS):
        start = PROBLEM.begins + (number + 6) * WEEK
        window = {
            "producer": PRODUCER,
            "window_start": start,
            "window_end": start + WEEK,
            "slice": "",
        }
        champion = {**window, "subject": f"version {1 + number // 15}"}
        found += [champion | row for row in measured(rng, metric, number)]
        found += [window | {"subject": PRODUCTION} | row for row in health()]
        for subject in (NEVER, SCHEDULE, DRIFT):
            value = float(rng.normal(0.7, 0.01))
            found.append(
                window
                | {
                    "producer": BACKTEST,
                    "subject": subject,
                    "metric": metric,
                    "value": value,
                }
            )
        for name, value in {"seconds": 3.0, "peak_mb": 500.0, "failed": 0.0}.items():
            found.append(
                window | {"producer": RUN, "subject": "predict", "metric": name, "value": value}
            )
    found.extend(streamed(start + WEEK))
    texts = ("metric", "slice", "status", "receiver", "kind", "text")
    told = "opened: drift feature=depot is violated: 0.31, limit 0.1, May 14 to May 21 (version 2)"
    values = zip(texts, ("drift", "feature=depot", "violated", LOG, "opened", told), strict=True)
    notice = {**dict(values), "at": start, "sent_at": start}
    decisions = [
        {
            "at": start - WEEK,
            "retrain": True,
            "why": "2 of the last 3 windows are violated",
            "outcome": "version 3",
        },
        {
            "at": start,
            "retrain": False,
            "why": "1 of the last 3 windows is violated",
            "outcome": "",
        },
    ]
    for table, rows in ((MEASUREMENTS, found), (ALERTS, [notice]), (RETRAININGS, decisions)):
        lakehouse.merge(
            table, nw.from_native(pl.LazyFrame(rows, schema=polars_schema(table.schema)))
        )


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has been watched, with its dashboard."""
    folder = copy_project(tmp_path_factory.mktemp("watched") / "my project")
    watch(Context(load_settings("test", folder), PROBLEM))
    subprocess.run(command("dashboard"), cwd=folder, env=surroundings(), check=True)
    return folder


def command(*verb: str) -> list[str]:
    return [sys.executable, "-m", str(cli.__package__), *verb, "--env", "test"]


def surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Addresses of the pages of a project that lived through three weeks, one of each kind."""
    folder = copy_project(tmp_path_factory.mktemp("walked") / "my project")
    first = PROBLEM.begins + timedelta(days=45)
    period = ("--from", first.isoformat(), "--to", (first + 2 * WEEK).isoformat())
    subprocess.run(command("replay", *period), cwd=folder, env=surroundings(), check=True)
    reports = folder / ".data" / "test" / "reports"
    return [max(reports.glob(f"{kind}*.html")).as_uri() for kind in KINDS]


@pytest.fixture(scope="session")
def live(home: Path) -> Iterator[str]:
    """Address of the dashboard that is served."""
    port = free_port()

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with subprocess.Popen(
        command("dashboard", "--port", str(port)), cwd=home, env=surroundings()
    ) as server:
        try:
            assert wait_for(lambda: server.poll() is not None or answers())
            assert server.poll() is None
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        # Containers and root have no user namespaces for the sandbox; what is opened is our own.
        chromium = driver.chromium.launch(
            executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[str, str], Page]]:
    """Open a page in one of the looks; whatever it asked for or complained of fails the test."""
    contexts, said, asked = [], [], []

    def opened(address: str, look: str) -> Page:
        scheme, width = LOOKS[look]
        contexts.append(
            browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        assert asked[-1:] == [page.url]
        return page

    yield opened
    assert said == []
    assert len(asked) == len(contexts)
    for context in contexts:
        context.close()


@pytest.mark.parametrize("look", LOOKS)
def test_the_dashboard_is_sound(
    home: Path, visit: Callable[[str, str], Page], look: str, tmp_path: Path
) -> None:
    page = visit((home / DASHBOARD).as_uri(), look)
    page.screenshot(path=tmp_path / f"{look}.png", full_page=True)
    assert page.evaluate(CHECKS) == []
    assert Axe().run(page).response["violations"] == []
    assert page.locator("table.heat td").count() > 400
    assert page.locator("h2").all_inner_texts()[2] == "What retraining is worth"


@pytest.mark.parametrize("look", LOOKS)
def test_pages_of_every_kind_are_sound(
    walked: list[str], visit: Callable[[str, str], Page], look: str
) -> None:
    for address in walked:
        page = visit(address, look)
        assert page.evaluate(CHECKS) == [], address
        assert [found["id"] for found in Axe().run(page).response["violations"]] == [], address


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("document.querySelector('h1').outerHTML = '<h3>name</h3>'", "skips a level"),
        ("document.querySelector('svg').removeAttribute('aria-label')", "no text alternative"),
        ("document.querySelector('.h2').style.color = '#c0362c'", "has a contrast of"),
        ("document.querySelector('.narrow svg text').style.fill = '#cccccc'", "has a contrast of"),
        ("document.querySelector('th').removeAttribute('scope')", "has no scope"),
        (
            "document.querySelector('.scroll:has(table.heat)').removeAttribute('tabindex')",
            "cannot be reached",
        ),
        ("document.querySelector('main').style.minWidth = '500px'", "px too wide"),
    ],
)
def test_the_checks_find_what_they_are_there_for(
    home: Path, visit: Callable[[str, str], Page], fault: str, found: str
) -> None:
    page = visit((home / DASHBOARD).as_uri(), "phone")
    page.evaluate(fault)
    said = page.evaluate(CHECKS)
    assert any(found in sentence for sentence in said), said


@pytest.mark.parametrize("look", ["light", "phone"])
def test_everything_is_reached_by_keyboard_in_order_and_seen(
    home: Path, visit: Callable[[str, str], Page], look: str
) -> None:
    page = visit((home / DASHBOARD).as_uri(), look)
    page.evaluate("document.querySelectorAll('details').forEach((it) => (it.open = true))")
    reachable, reached = page.evaluate(REACHABLE), []
    for _ in reachable:
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(FOCUSED)
        assert outlined, name
        reached.append(name)
    assert reached == reachable
    assert len(reached) > 15


def test_a_wide_table_scrolls_in_its_own_box(home: Path, visit: Callable[[str, str], Page]) -> None:
    page = visit((home / DASHBOARD).as_uri(), "phone")
    box = page.get_by_label("Heat map of drift")
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    assert box.evaluate("(it) => it.scrollLeft") > 0
    assert page.evaluate("window.scrollX") == 0


def test_the_live_dashboard_is_the_same_page(
    live: str, home: Path, visit: Callable[[str, str], Page]
) -> None:
    page = visit(f"{live}/", "light")
    assert page.evaluate(CHECKS) == []
    written = (home / DASHBOARD).read_text(encoding="utf-8")
    with urlopen(f"{live}/") as answer:  # noqa: S310 our own, on the loopback
        assert GENERATED.sub("", answer.read().decode()) == GENERATED.sub("", written)


def test_live_links_between_pages_lead_somewhere(live: str) -> None:
    for page, beyond in (("/index.html", "/dashboard/index.html"), ("/", "/index.html")):
        with urlopen(f"{live}{page}") as answer:  # noqa: S310
            targets = LINK.findall(answer.read().decode())
        found = {urljoin(f"{live}{page}", target) for target in targets}
        assert f"{live}{beyond}" in found
        for address in found:
            with urlopen(address) as answer:  # noqa: S310
                assert answer.status == 200, address


def test_live_metrics_are_read_by_those_who_collect_them(live: str, home: Path) -> None:
    rows = pl.DataFrame(
        Context(load_settings("test", home), PROBLEM)
        .lakehouse.scan(MEASUREMENTS)
        .collect("polars")
        .to_native()
    )
    with urlopen(f"{live}/metrics") as answer:  # noqa: S310
        families = {it.name: it for it in text_string_to_metric_families(answer.read().decode())}
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert set(families) == {f"mlops_metric_{name}" for name in ("value", "threshold", "violated")}
    scored = [
        it for it in families["mlops_metric_value"].samples if it.labels["metric"] == "scored"
    ]
    assert [(it.labels["subject"], it.value) for it in scored] == [(PRODUCTION, 0.97)]
    with urlopen(f"{live}/metrics.csv") as answer:  # noqa: S310
        table = pl.read_csv(
            io.BytesIO(answer.read()), try_parse_dates=True, infer_schema_length=None
        )
    assert table.columns == list(MEASUREMENTS.schema)
    assert table.height == rows.height
    assert table["value"].drop_nulls().sum() == pytest.approx(rows["value"].drop_nulls().sum())
    assert table["window_end"].max() == rows["window_end"].max()


def test_the_readmes_picture_is_of_the_page_as_it_is(
    browser: Browser, home: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "dashboard.png"
    take(browser, home / DASHBOARD, picture)
    kept = ROOT / "docs" / "pictures" / "dashboard.png"
    for path in (picture, kept):
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:]) == (WIDTH, HEIGHT)
        assert path.stat().st_size < 150_000
        assert fingerprint_of(path) == fingerprint(), f"{path}: python3 bootstrap.py picture"


def test_a_picture_of_another_page_is_found(tmp_path: Path) -> None:
    # given a template that changes in one character
    changed = []
    for path in DRAWN_BY:
        changed.append(tmp_path / path.name)
        changed[-1].write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    assert fingerprint(changed) == fingerprint()
    with changed[-1].open("a", encoding="utf-8") as file:
        file.write(" ")
    # then
    assert fingerprint(changed) != fingerprint()


def test_before_anything_was_measured_the_page_is_sound(
    visit: Callable[[str, str], Page], tmp_path: Path
) -> None:
    path = tmp_path / "index.html"
    known: dict[str, Any] = {"name": "parcels", "windows": [], "home": "", "streams": []}
    pages.write(path, pages.render("dashboard.html.jinja", **known))
    assert visit(path.as_uri(), "phone").evaluate(CHECKS) == []
