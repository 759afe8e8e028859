from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.tracking.signing import CLAIMS, SIGNATURE, Signer

TAGS = {name: f"{name} of it" for name in CLAIMS}


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(None, tmp_path / "state" / "signing.key")


def signed(signer: Signer) -> dict[str, str]:
    return {**TAGS, SIGNATURE: signer.sign("model", "run", TAGS)}


def test_what_was_signed_stands(signer: Signer) -> None:
    assert signer.objection("model", "run", signed(signer)) == ""


def test_other_tags_may_change(signer: Signer) -> None:
    tags = {**signed(signer), "stage": "Production", "compliance.digest": "pass", "note": "hi"}
    assert signer.objection("model", "run", tags) == ""


@pytest.mark.parametrize("name", CLAIMS)
def test_no_claim_can_change_or_go(name: str, signer: Signer) -> None:
    tags = signed(signer)
    for changed in ({**tags, name: "another"}, {k: v for k, v in tags.items() if k != name}):
        assert "other tags or files" in signer.objection("model", "run", changed)


def test_another_model_or_run_is_refused(signer: Signer) -> None:
    assert signer.objection("other", "run", signed(signer))
    assert signer.objection("model", "other", signed(signer))


def test_nothing_signed_is_refused(signer: Signer) -> None:
    assert signer.objection("model", "run", TAGS) == "is not signed"


def test_another_key_is_told_from_a_change(signer: Signer, tmp_path: Path) -> None:
    signed(signer)
    other = Signer(None, tmp_path / "other.key")
    assert "another key" in signer.objection("model", "run", signed(other))


def test_the_first_signature_makes_a_key_that_only_its_owner_reads(signer: Signer) -> None:
    first = signed(signer)
    assert first == signed(signer)
    if sys.platform != "win32":
        assert stat.S_IMODE(signer.file.stat().st_mode) == 0o600
    assert [path.name for path in signer.file.parent.iterdir()] == [signer.file.name]


def test_a_key_that_is_gone_is_said_and_not_made_anew(signer: Signer) -> None:
    tags = signed(signer)
    signer.file.unlink()
    with pytest.raises(UserError, match="is gone"):
        signer.objection("model", "run", tags)
    assert not signer.file.exists()


def test_a_key_in_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    signer = Signer("MY_KEY", tmp_path / "signing.key")
    for value in (None, "", "short"):
        monkeypatch.setenv("MY_KEY", value or "")
        with pytest.raises(UserError, match="MY_KEY"):
            signer.sign("model", "run", TAGS)
    monkeypatch.setenv("MY_KEY", "k" * 32)
    assert signer.objection("model", "run", signed(signer)) == ""
    assert not signer.file.exists()
