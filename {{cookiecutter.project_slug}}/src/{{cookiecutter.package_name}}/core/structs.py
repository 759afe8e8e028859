"""Types of what is sent as JSON: a field for each column, whatever the column is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .errors import UserError


def struct(name: str, fields: Sequence[tuple[Any, ...]], **options: Any) -> type[msgspec.Struct]:
    """A type whose fields are columns.

    JSON has their names. So has Python, but where a name is no identifier: ask `columns_of` for
    the names of what `msgspec.structs.astuple` gives.

    Args:
        name: Of the type.
        fields: Column, type and, where it may be absent, default.
        options: As of `msgspec.defstruct`.

    Raises:
        UserError: A name that JSON would have to escape.
    """
    renamed = {}
    given = []
    for number, (column, *rest) in enumerate(fields):
        own = column if column.isidentifier() else f"column_{number}_"
        renamed[own] = column
        given.append((own, *rest))
    try:
        return msgspec.defstruct(name, given, rename=renamed, **options)
    except ValueError as error:
        message = f"A column cannot be sent as JSON: {error}."
        raise UserError(message, "Give it a name without quotes and backslashes.") from None


def columns_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The names of a type's fields in JSON."""
    return tuple(field.encode_name for field in msgspec.structs.fields(kind))
