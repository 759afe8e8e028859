"""How long the soak takes."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the session `soak`."""
    parser.addoption("--seconds", type=float, default=45, help="of load while servers are killed")
    parser.addoption("--requests", type=int, default=10_000, help="until memory is compared")
