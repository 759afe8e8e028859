"""The state at an address: nothing that was written is lost, and nobody fetches his own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import obstore
import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.store.mirror import Mirror

from tests.storage.conftest import Gone, Server, Storage

PAGE = "reports/page.html"
JOURNAL = "studies.log"
Machine = Callable[[str], Mirror]


@pytest.fixture
def machine(storage: Storage, request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A verb's mirror, by the name of the machine that the verb runs on."""
    name = request.node.name.replace("[", "-").replace("]", "")
    address = storage.address(name, "state")
    return lambda machine: Mirror(tmp_path / machine, address, storage.options)


def write(mirror: Mirror, name: str, content: str) -> None:
    path = mirror.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def read(mirror: Mirror, name: str) -> str:
    return (mirror.folder / name).read_text(encoding="utf-8")


def test_what_one_machine_kept_another_has(machine: Machine) -> None:
    first, second = machine("first"), machine("second")
    write(first, PAGE, "one")
    write(first, JOURNAL, "trials")
    write(first, "signing.key", "secret")
    first.keep()
    second.fetch()
    assert (read(second, PAGE), read(second, JOURNAL)) == ("one", "trials")
    assert not (second.folder / "signing.key").exists()


def test_what_somebody_put_beside_it_is_not_fetched(machine: Machine) -> None:
    mirror = machine("only")
    with mirror._reaching() as store:
        for name in ("tokens.json", "serving/pointer.json", "reports.html"):
            obstore.put(store, name, b"planted")
    mirror.fetch()
    assert [path.name for path in mirror.folder.iterdir()] == [".agreed.json"]


def test_the_newer_state_of_a_file_is_fetched(machine: Machine) -> None:
    # given two machines that have the same
    write(machine("first"), PAGE, "one")
    machine("first").keep()
    machine("second").fetch()
    # when a verb on one of them writes it anew
    later = machine("second")
    later.fetch()
    write(later, PAGE, "two")
    later.keep()
    # then the next verb on the other has that
    machine("first").fetch()
    assert read(machine("first"), PAGE) == "two"


def test_what_could_not_be_kept_is_kept_by_the_next_verb(machine: Machine) -> None:
    # given a file that is at the address
    verb = machine("only")
    write(verb, PAGE, "one")
    verb.keep()
    # when a verb writes it anew, and another besides, and cannot reach the address at its end
    away = replace(machine("only"), address=f"{verb.address.partition('//')[0]}//gone/state")
    write(away, PAGE, "two")
    write(away, JOURNAL, "trials")
    with pytest.raises(UserError, match="where the state is kept"):
        away.keep()
    # then the next one puts both there
    following = machine("only")
    following.fetch()
    following.keep()
    elsewhere = machine("elsewhere")
    elsewhere.fetch()
    assert (read(elsewhere, PAGE), read(elsewhere, JOURNAL)) == ("two", "trials")


def test_what_has_not_changed_is_not_sent_again(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        verb = machine(name)
        verb.fetch()
        write(verb, f"reports/{name}.html", name)
        write(verb, JOURNAL, name)
        verb.keep()
    # given the files of both on each of them
    machine("first").fetch()
    # then nothing has to be sent, either way
    for way in ("get", "put"):
        monkeypatch.delattr(obstore, way)
    for name in ("first", "second"):
        verb = machine(name)
        verb.fetch()
        verb.keep()
        assert read(verb, JOURNAL) == "second"


def test_what_two_changed_is_what_was_written_last(machine: Machine) -> None:
    for name in ("first", "second"):
        write(machine(name), PAGE, name)
    machine("second").keep()
    # given the older file on the first
    of_long_ago = 1_000_000_000
    os.utime(machine("first").folder / PAGE, (of_long_ago, of_long_ago))
    machine("first").fetch()
    assert read(machine("first"), PAGE) == "second"
    # and a newer one
    write(machine("first"), PAGE, "third")
    machine("first").fetch()
    machine("first").keep()
    machine("second").fetch()
    assert read(machine("second"), PAGE) == "third"


def test_another_address_is_given_all_there_is(machine: Machine) -> None:
    verb = machine("only")
    write(verb, PAGE, "one")
    verb.keep()
    moved = replace(verb, address=f"{verb.address}-of-later")
    moved.fetch()
    moved.keep()
    elsewhere = replace(machine("elsewhere"), address=moved.address)
    elsewhere.fetch()
    assert read(elsewhere, PAGE) == "one"


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_a_bucket_that_vanishes_is_one_message(machine: Machine, server: Server) -> None:
    def vanished(method: str, path: str) -> None:
        raise Gone

    verb = machine("only")
    write(verb, PAGE, "one")
    server.seen = vanished
    try:
        for reach in (verb.look, verb.fetch, verb.keep):
            with pytest.raises(UserError, match="where the state is kept"):
                reach()
    finally:
        server.seen = None
    assert read(verb, PAGE) == "one"
