"""Types of what is sent as JSON, for columns of any name."""

from __future__ import annotations

import msgspec
import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.core.structs import columns_of, struct

NAMES = ("plain", "order id", "Parcel No.", "größe", "class", "1st", "_", "")


def test_a_column_is_called_so_in_json() -> None:
    kind = struct("Row", [(name, int) for name in NAMES])
    sent = msgspec.json.encode({name: number for number, name in enumerate(NAMES)})
    read = msgspec.json.decode(sent, type=kind)
    assert columns_of(kind) == NAMES
    assert msgspec.structs.astuple(read) == tuple(range(len(NAMES)))
    assert msgspec.json.encode(read) == sent


def test_defaults_and_options_are_those_of_the_library() -> None:
    kind = struct("Row", [("a b", int), ("c", int, 7)], kw_only=True, forbid_unknown_fields=True)
    read = msgspec.json.decode(b'{"a b": 1}', type=kind)
    assert msgspec.structs.astuple(read) == (1, 7)
    for wrong in (b"{}", b'{"a b": 1, "x": 2}', b'{"column_0_": 1}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=kind)


def test_what_json_would_have_to_escape_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be sent as JSON"):
        struct("Row", [('a"b', int)])
