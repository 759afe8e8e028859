"""The name that an environment's tables carry: another storage, or an empty one, is refused by it.

A second machine that was never given production's data has no champion, no history and no requests,
and would begin production anew without a word.
"""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from ..core.contract import polars_schema
from ..core.errors import UserError
from .lakehouse import Lakehouse
from .tables import ENVIRONMENT


def require(lakehouse: Lakehouse, wanted: str | None) -> None:
    """Refuse tables that do not carry the name that conf/ gives the environment.

    Raises:
        UserError: They carry none, or another.
    """
    if wanted is not None:
        refuse_other(f"The tables in {lakehouse.root}", carried(lakehouse), wanted)


def carried(lakehouse: Lakehouse) -> str | None:
    """The name that the tables carry."""
    for name in lakehouse.read(ENVIRONMENT)["name"]:
        return str(name)
    return None


def give(lakehouse: Lakehouse, name: str) -> None:
    """Name the tables, once and for all; doing so again changes nothing.

    Raises:
        UserError: They carry another name.
    """
    found = carried(lakehouse)
    if found is not None:
        refuse_other(f"The tables in {lakehouse.root}", found, name)
        return
    row = pl.DataFrame(
        [{"name": name, "at": datetime.now(UTC)}], schema=polars_schema(ENVIRONMENT.schema)
    )
    if not lakehouse.append_if_unchanged(ENVIRONMENT, row, None):
        refuse_other(f"The tables in {lakehouse.root}", carried(lakehouse), name)


def refuse_other(place: str, found: str | None, wanted: str) -> None:
    """Refuse a storage of another name.

    Raises:
        UserError: The names differ.
    """
    if found == wanted:
        return
    if found is None:
        message = f"{place} are not those of {wanted}: they carry no name."
        remedy = "Is this the right machine, with all of its data? `init` names a new environment."
    else:
        message = f"{place} are not those of {wanted}: they belong to {found}."
        remedy = "Correct the places or `storage_name` in conf/."
    raise UserError(message, remedy)
