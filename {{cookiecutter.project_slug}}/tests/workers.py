"""A worker of the server, as a test wants it: on the toy problem, in a folder."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette

from {{cookiecutter.package_name}}.serving import api

from tests.parcels import PROBLEM


def worker(folder: Path) -> Starlette:
    """The application of a worker that has no version yet."""
    config = api.Config(
        problem=PROBLEM.__module__,
        folder=str(folder),
        online=str(folder / "online"),
        redis=None,
        model="parcels",
        tokens=str(folder / "tokens.json"),
        max_rows=1,
        max_bytes=1_000,
        body_seconds=1,
        rate=1,
        log_bytes=1,
        ship_seconds=1,
        share=0,
        challenger_answers=False,
    )
    return api.routes(api.open_service(config, PROBLEM))
