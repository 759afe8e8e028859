"""The problem: yours. Another dataset means editing this folder and `conf/`, nothing else."""

from ..core.contract import Problem
from .features import FEATURE_TABLES
from .model import MODEL
from .sources import DATA_BEGINS, DATA_ENDS, SOURCES

PROBLEM = Problem(
    sources=SOURCES,
    feature_tables=FEATURE_TABLES,
    model=MODEL,
    begins=DATA_BEGINS,
    ends=DATA_ENDS,
)
