"""The parts of the server: what is asked, who may ask, and a request log that loses nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from {{cookiecutter.package_name}}.core.contract import Problem, polars_schema
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.serving import access, api, journal, shipping
from {{cookiecutter.package_name}}.serving.access import Access
from {{cookiecutter.package_name}}.serving.api import share_of
from {{cookiecutter.package_name}}.serving.journal import Journal, JournalFullError
from {{cookiecutter.package_name}}.serving.messages import answer_type, request_type
from {{cookiecutter.package_name}}.serving.online import Loops, is_loopback
from {{cookiecutter.package_name}}.serving.records import Records
from {{cookiecutter.package_name}}.serving.requests import (
    RequestError,
    body_type,
    openapi,
    row_type,
)
from {{cookiecutter.package_name}}.serving.scoring import Scored
from {{cookiecutter.package_name}}.serving.shipping import ship
from {{cookiecutter.package_name}}.store import tables
from {{cookiecutter.package_name}}.store.lakehouse import Lakehouse

from tests.conftest import START, imported_by, within

MEGABYTE = 2**20


# What is asked


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"order": 1, "shop": "a"}],
        [{"order": None, "shop": "a", "amount": 1.0}],
        [{"order": "1", "shop": "a", "amount": 1.0}],
        [{"order": 1, "shop": "a", "amount": "NaN"}],
        [{"order": 1, "shop": "a", "amount": 1.0, "paid": 1.0}],
        [{"order": 1, "shop": "a" * 1_001, "amount": 1.0}],
        [{"order": 1, "shop": "a", "amount": 1.0}] * 4,
    ],
)
def test_what_is_not_of_the_schema_is_refused(toy: Problem, rows: list[Any]) -> None:
    body = body_type(row_type(toy), max_rows=3)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps({"rows": rows}), type=body)


def test_null_is_a_value_that_is_not_known(toy: Problem) -> None:
    row = msgspec.json.decode(b'{"order": 1, "shop": null, "amount": 2}', type=row_type(toy))
    assert msgspec.structs.astuple(row) == (1, None, 2.0)


def test_a_type_without_a_place_in_json_is_named(toy: Problem) -> None:
    scored = replace(toy.scored, prepared={**toy.scored.prepared, "many": nw.List(nw.Int64)})
    with pytest.raises(UserError, match="many"):
        row_type(replace(toy, sources=(scored, *toy.sources[1:])))


def renamed(toy: Problem, name: str) -> Problem:
    """The problem, but that a column of the rows that it scores is called otherwise."""
    prepared = {name if key == "shop" else key: of for key, of in toy.scored.prepared.items()}
    return replace(toy, sources=(replace(toy.scored, prepared=prepared), *toy.sources[1:]))


def test_columns_are_asked_for_by_whatever_name_they_have(toy: Problem) -> None:
    odd = renamed(toy, "shop (No.)")
    sent = b'{"order": 1, "shop (No.)": "a", "amount": 2}'
    row = msgspec.json.decode(sent, type=row_type(odd))
    message = msgspec.json.decode(sent, type=request_type(odd))
    assert msgspec.structs.astuple(row) == (1, "a", 2.0)
    assert msgspec.structs.astuple(message)[2:] == (1, "a", 2.0)
    described = openapi(odd, "toy", max_rows=3)["components"]["schemas"]["Row"]
    assert "shop (No.)" in described["properties"]


def test_a_name_that_json_would_have_to_escape_is_one_message(toy: Problem) -> None:
    with pytest.raises(UserError, match="cannot be sent as JSON"):
        row_type(renamed(toy, 'the "shop"'))


def test_a_message_may_have_an_id_and_a_time(toy: Problem) -> None:
    sent = b'{"order": 1, "shop": null, "amount": 2'
    read = msgspec.json.Decoder(request_type(toy)).decode
    assert msgspec.structs.astuple(read(sent + b"}")) == (None, None, 1, None, 2.0)
    own = read(sent + b', "request_id": "a", "requested_at": "2020-01-01T00:00:00Z"}')
    assert msgspec.structs.astuple(own)[:2] == ("a", START)
    for wrong in (
        b', "request_id": ""}',
        b', "requested_at": "2020-01-01T00:00:00"}',
        b', "x": 1}',
    ):
        with pytest.raises(msgspec.ValidationError):
            read(sent + wrong)


def test_an_answer_comes_back_from_json_to_the_bit(toy: Problem) -> None:
    # Given
    schema = polars_schema(tables.inference_log(toy).schema)
    row = dict.fromkeys(schema) | {"order": 2**53 + 1, "prediction_time": START}
    numbers = {"prediction": 0.1 + 0.2, "amount": 5e-324, "latency_ms": 1.7976931348623157e308}
    log = pl.DataFrame([row | numbers | {"request_id": "é\u2028"}], schema=schema)
    # When
    read = msgspec.json.decode(log.write_ndjson(), type=answer_type(toy))
    # Then
    back = pl.DataFrame([msgspec.structs.asdict(read)], schema={**schema, "requested_at": None})
    assert back.drop("requested_at").equals(log)


def test_the_description_names_every_column_that_is_asked_for(toy: Problem) -> None:
    described = openapi(toy, "toy", max_rows=3)
    assert list(described["components"]["schemas"]["Row"]["properties"]) == list(
        toy.scored.prepared
    )


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.1", False)],
)
def test_only_the_loopback_needs_no_tokens(host: str, here: bool) -> None:  # noqa: FBT001
    assert is_loopback(host) is here


# Who may ask


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def status(guard: Access, token: str, scope: access.Scope = "predict") -> int:
    try:
        guard.check(f"Bearer {token}", scope)
    except RequestError as error:
        return error.status
    return 200


def test_a_token_opens_what_it_is_for_and_nothing_else(tokens: Path) -> None:
    # Given
    token = access.grant(tokens, "shop", ["predict"])
    guard = Access(tokens, rate=100)
    # Then
    assert status(guard, token) == 200
    assert status(guard, token, "read") == 403
    assert status(guard, f"{token}x") == 401
    assert status(guard, "") == 401
    assert status(guard, "\udcff") == 401
    assert token not in tokens.read_text(encoding="utf-8")


def test_tokens_are_changed_while_the_server_runs(tokens: Path) -> None:
    # Given
    old = access.grant(tokens, "shop", ["predict"])
    guard = Access(tokens, rate=100)
    new = access.grant(tokens, "shop", ["predict"])
    guard.refresh()
    both = [status(guard, old), status(guard, new)]
    # When
    access.revoke(tokens, "shop", but_newest=True)
    guard.refresh()
    # Then
    assert both == [200, 200]
    assert [status(guard, old), status(guard, new)] == [401, 200]


def test_a_file_of_tokens_that_vanishes_lets_nobody_in(tokens: Path) -> None:
    token = access.grant(tokens, "shop", ["predict"])
    guard = Access(tokens, rate=100)
    tokens.unlink()
    guard.refresh()
    assert status(guard, token) == 401


@pytest.mark.parametrize("rate", [1, 0.1])
def test_more_than_the_rate_is_put_off_for_this_token_alone(tokens: Path, rate: float) -> None:
    one, other = (access.grant(tokens, name, ["predict"]) for name in ("a", "b"))
    guard = Access(tokens, rate)
    asked = [status(guard, one) for _ in range(10)]
    assert asked[0] == 200
    assert asked[-1] == 429
    assert status(guard, other) == 200


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(UserError, match="predict, read"):
        access.scopes_of(["admin"])


# The request log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{journal.SUFFIX}"))


def test_a_segment_is_complete_when_nobody_holds_it(folder: Path) -> None:
    # Given
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(b"1\n")
    [segment] = segments(folder)
    held = journal.is_complete(segment)
    # When
    writing.close()
    # Then
    assert (held, journal.is_complete(segment)) == (False, True)


def test_what_would_be_too_much_is_refused_and_nothing_of_it_stays(folder: Path) -> None:
    writing = Journal(folder, max_bytes=10, max_seconds=1)
    writing.write(b"12345\n")
    with pytest.raises(JournalFullError):
        writing.write(b"12345\n")
    assert segments(folder)[0].read_bytes() == b"12345\n"


@pytest.mark.parametrize("written", [None, 3])
def test_a_full_disk_takes_back_what_it_took(
    folder: Path, monkeypatch: pytest.MonkeyPatch, written: int | None
) -> None:
    # Given
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(b"before\n")
    real = os.write

    def full(file: int, content: bytes) -> int:
        if written is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, content[:written])

    # When
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(JournalFullError):
            writing.write(b"lost\n")
    writing.write(b"after\n")
    # Then
    assert segments(folder)[0].read_bytes() == b"before\nafter\n"


@pytest.fixture
def scored() -> Scored:
    return Scored((1,), START, ("a", 2, None), [0.25], [None], 0)


def line(problem: Problem, scored: Scored, request_id: str, **options: Any) -> bytes:
    return Records(problem).line(
        scored,
        request_id=request_id,
        version="1",
        feature_versions="{}",
        milliseconds=1.5,
        **options,
    )


@given(
    amount=st.none() | st.floats(width=64),
    last=st.none() | st.floats(width=64) | st.integers(-(2**53), 2**53) | st.booleans(),
    shop=st.none() | st.text(),
)
def test_a_line_is_read_as_it_was_written_to_the_bit(
    amount: float | None, last: float | None, shop: str | None
) -> None:
    # Given
    from tests.parcels import PROBLEM

    inputs = (shop, shop, amount, last, *(None,) * 4)
    scored = Scored((7,), START, inputs, [0.1], [None, None], 0)
    # When
    rows, bad = Records(PROBLEM).rows([line(PROBLEM, scored, "r").rstrip(b"\n")])
    # Then
    found = Records(PROBLEM).log(rows).row(0, named=True)
    numbers = [found["kilograms"], found["is_express"]]
    given_numbers = [None if value is None else float(value) for value in (amount, last)]
    assert not bad
    assert [value and value.hex() for value in numbers] == [
        value and value.hex() for value in given_numbers
    ]
    assert (found["depot"], found["parcel"], found["request_id"]) == (shop, 7, "r")


def shipped(problem: Problem, lakehouse: Lakehouse) -> list[str]:
    return sorted(lakehouse.read(tables.inference_log(problem))["request_id"])


def test_lines_arrive_exactly_once(
    toy: Problem, lakehouse: Lakehouse, folder: Path, scored: Scored
) -> None:
    # Given
    context = within(lakehouse, toy)
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(line(toy, scored, "1") + line(toy, scored, "2"))
    writing.close()
    writing.write(line(toy, scored, "3"))  # held open
    # When
    counts = [ship(context, folder), ship(context, folder)]
    writing.close()
    counts.append(ship(context, folder))
    # Then
    assert counts == [2, 0, 1]
    assert shipped(toy, lakehouse) == ["1", "2", "3"]
    assert segments(folder) == []
    assert lakehouse.count(tables.predictions(toy)) == 1


@pytest.mark.parametrize("step", ["last_batch", "merge", "append_once"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_lines_arrive_once_though_the_shipper_dies(
    toy: Problem,
    lakehouse: Lakehouse,
    folder: Path,
    scored: Scored,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    when: str,
) -> None:
    # Given
    context = within(lakehouse, toy)
    writing = Journal(folder, MEGABYTE, 1)
    real = getattr(Lakehouse, step)

    def dying(*given: Any) -> Any:
        if when == "after":
            real(*given)
        raise KeyboardInterrupt

    # When
    writing.write(line(toy, scored, "1"))
    writing.close()
    with monkeypatch.context() as patch:
        patch.setattr(Lakehouse, step, dying)
        with pytest.raises(KeyboardInterrupt):
            ship(context, folder)
    writing.write(line(toy, scored, "2"))
    writing.close()
    ship(context, folder)
    # Then
    assert shipped(toy, lakehouse) == ["1", "2"]


@pytest.mark.parametrize("instead", ["a file", "an empty folder"])
def test_no_line_is_lost_while_the_tables_are_out_of_reach(
    toy: Problem, lakehouse: Lakehouse, folder: Path, scored: Scored, tmp_path: Path, instead: str
) -> None:
    # Given a line that is shipped, and storage that is not there for a while
    context = within(lakehouse, toy)
    writing = Journal(folder, MEGABYTE, 1)
    root, aside = Path(lakehouse.root), tmp_path / "aside"
    for number in "12":
        writing.write(line(toy, scored, number))
        writing.close()
        ship(context, folder)
    root.rename(aside)
    root.touch() if instead == "a file" else root.mkdir()
    # When another is shipped meanwhile
    writing.write(line(toy, scored, "3"))
    writing.close()
    with pytest.raises(UserError, match="lacks batches of the request log"):
        ship(context, folder)
    assert len(segments(folder)) == 1
    root.unlink() if instead == "a file" else root.rmdir()
    aside.rename(root)
    ship(context, folder)
    # Then
    assert shipped(toy, lakehouse) == ["1", "2", "3"]
    assert segments(folder) == []


def test_tables_that_are_made_anew_on_purpose_get_what_waits(
    toy: Problem, lakehouse: Lakehouse, folder: Path, scored: Scored
) -> None:
    # Given
    context = within(lakehouse, toy)
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(line(toy, scored, "1"))
    writing.close()
    ship(context, folder)
    shutil.rmtree(lakehouse.root)
    writing.write(line(toy, scored, "2"))
    writing.close()
    # When somebody does what the message says
    with pytest.raises(UserError, match=f"remove {re.escape(str(folder / 'batch.json'))}"):
        ship(context, folder)
    (folder / "batch.json").unlink()
    ship(context, folder)
    # Then
    assert shipped(toy, lakehouse) == ["2"]


def test_a_torn_last_line_is_dropped_and_a_bad_one_put_aside(
    toy: Problem, lakehouse: Lakehouse, folder: Path, scored: Scored
) -> None:
    # Given
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(line(toy, scored, "1") + b'{"order": "x"}\n' + line(toy, scored, "2")[:-9])
    writing.close()
    # When
    ship(within(lakehouse, toy), folder)
    # Then
    assert shipped(toy, lakehouse) == ["1"]
    [aside] = (folder / shipping.BAD).iterdir()
    assert aside.read_bytes() == b'{"order": "x"}\n'


def test_what_was_not_given_as_an_answer_is_no_prediction(
    toy: Problem, lakehouse: Lakehouse, folder: Path, scored: Scored
) -> None:
    # Given
    writing = Journal(folder, MEGABYTE, 1)
    writing.write(line(toy, scored, "1") + line(toy, scored, "1", shadow=True))
    writing.close()
    # When
    ship(within(lakehouse, toy), folder)
    # Then
    assert shipped(toy, lakehouse) == ["1"]
    assert lakehouse.count(tables.shadow_log(toy)) == 1


def test_an_entity_is_always_on_the_same_side_of_a_share() -> None:
    shares = [share_of((number, "a")) for number in range(2_000)]
    assert shares == [share_of((number, "a")) for number in range(2_000)]
    below = sum(share < 0.1 for share in shares)
    assert 150 < below < 250


def test_batches_of_a_writer_are_appended_once(toy: Problem, lakehouse: Lakehouse) -> None:
    # Given
    table = tables.prepared(toy.sources[0])
    rows = table.empty()
    # When
    done = [lakehouse.append_once(table, rows, "w", number) for number in (1, 1, 2)]
    # Then
    assert done == [True, False, True]
    assert lakehouse.last_batch(table, "w") == 2
    assert lakehouse.last_batch(table, "other") == 0


def test_workers_do_not_import_what_only_other_processes_need() -> None:
    heavy = {"deltalake", "lightgbm", "mlflow", "pandas", "pyarrow", "pydantic", "scipy"}
    assert imported_by(api.__name__, heavy) == []


def test_a_loop_wakes_when_it_is_told_to(tmp_path: Path) -> None:
    # Given
    done, wake = threading.Event(), tmp_path / "wake"
    loops = Loops(tmp_path)
    loops.start("follow", done.set, 3_600, wake)
    assert not done.wait(0.2)
    # When
    wake.touch()
    # Then
    assert done.wait(60)
    loops.stop()
