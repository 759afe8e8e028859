"""The toy that the machinery is tested on: will a parcel be late? Made up, small, and never seen.

A parcel is announced three days ahead, posted at a depot, and delivered within a day. Heavy
parcels of slow depots are late; lateness drifts over the weeks. Some rows are wrong, for the
checks to catch.
"""

from __future__ import annotations

from {{cookiecutter.package_name}}.core.contract import Problem

from .features import FEATURE_TABLES
from .model import MODEL
from .sources import BEGINS, ENDS, SOURCES

PROBLEM = Problem(
    sources=SOURCES, feature_tables=FEATURE_TABLES, model=MODEL, begins=BEGINS, ends=ENDS
)
