"""Registrations are signed: what was changed by hand in the registry or in a folder shows.

The signature is an HMAC-SHA256 (RFC 2104) over the claims of a version, the digest of its files
among them. Its key lies outside the registry: in an environment variable, or in a file of the state
that the first training makes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import UserError

TRAINING_ID = "training_id"
ARTIFACT_DIGEST = "files_sha256"
SIGNATURE = "signature"
WINDOWS = (
    "train_start",
    "train_end",
    "validation_start",
    "validation_end",
    "holdout_start",
    "holdout_end",
)
CLAIMS = (
    TRAINING_ID,
    ARTIFACT_DIGEST,
    "as_of",
    "target",
    "data_versions",
    "data_fingerprint",
    "recipe",
    "git_commit",
    "git_dirty",
    "lock_sha256",
    "source_sha256",
    *WINDOWS,
)
"""Tags by which a version says where it comes from; nothing but these is signed."""
_KEY_BYTES = 32


@dataclass(frozen=True)
class Signer:
    """Signs claims, and tells whether they are as they were signed."""

    variable: str | None  # environment variable that holds the key
    file: Path  # holds it where no variable is named

    def sign(self, model: str, run_id: str | None, claims: Mapping[str, str]) -> str:
        """Sign a version before it is registered; where there is no key file, one is made.

        Args:
            model: Registered model that it becomes a version of.
            run_id: Run that it comes from.
            claims: Its tags; those that are no `CLAIMS` are left out.

        Raises:
            UserError: There is no key.
        """
        if self.variable is None and not self.file.exists():
            self._make_key()
        return _signature(self._key(), model, run_id, claims)

    def objection(self, model: str, run_id: str | None, tags: Mapping[str, str]) -> str:
        """What is wrong with a version's signature, or nothing.

        Raises:
            UserError: There is no key.
        """
        held = tags.get(SIGNATURE, "")
        if not held:
            return "is not signed"
        key = self._key()
        if held.partition(":")[0] != _name(key):
            return "was signed with another key than that of this environment"
        if not hmac.compare_digest(held, _signature(key, model, run_id, tags)):
            return "has other tags or files than were signed when it was registered"
        return ""

    def _key(self) -> bytes:
        if self.variable is None:
            with suppress(FileNotFoundError):
                return self.file.read_bytes()
            message = f"The key that registrations are signed with is gone: {self.file}."
            raise UserError(message, "Restore the file; else remove it for good and retrain.")
        key = os.environ.get(self.variable, "").encode()
        if len(key) < _KEY_BYTES:
            found = "is too short" if key else "is not set"
            message = f"{self.variable}, which holds the key that signs registrations, {found}."
            raise UserError(message, f"Set it to a secret of {_KEY_BYTES} characters or more.")
        return key

    def _make_key(self) -> None:
        """Make the file, readable by its owner alone; of two at once, one makes it."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.file.parent) as partial:  # mode 0600
            partial.write(secrets.token_hex(_KEY_BYTES).encode())
            partial.flush()
            with suppress(FileExistsError):
                os.link(partial.name, self.file)


def _signature(key: bytes, model: str, run_id: str | None, tags: Mapping[str, str]) -> str:
    claims = {name: tags[name] for name in CLAIMS if name in tags}
    content = json.dumps([model, run_id, claims], sort_keys=True).encode()
    return f"{_name(key)}:{hmac.new(key, content, hashlib.sha256).hexdigest()}"


def _name(key: bytes) -> str:
    """Tells one key from another, and nothing of the key."""
    return hashlib.sha256(b"name of the key " + key).hexdigest()[:8]
