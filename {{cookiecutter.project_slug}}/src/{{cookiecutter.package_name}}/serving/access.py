"""Who may ask for what: bearer tokens, of which only hashes are kept, and a rate for each."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ..core.errors import UserError
from .requests import RequestError

Scope = Literal["predict", "read"]
SCOPES: tuple[Scope, ...] = ("predict", "read")
_BEARER = "Bearer "
_BURST_SECONDS = 2


class Token(msgspec.Struct, frozen=True):
    """A token that was given to somebody."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]


def read_tokens(path: Path) -> list[Token]:
    """Tokens of an environment; none where the file is not there.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Token])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError) as error:
        message = f"Cannot read {path}: {error}"
        raise UserError(message, "Restore it, or remove it and give out new tokens.") from None


def scopes_of(names: Sequence[str]) -> list[Scope]:
    """Scopes by name.

    Raises:
        UserError: There is no such scope.
    """
    scopes: list[Scope] = []
    for name in names:
        known = next((scope for scope in SCOPES if scope == name), None)
        if known is None:
            raise UserError(f"There is no scope '{name}'.", f"Use: {', '.join(SCOPES)}.")
        scopes.append(known)
    return scopes


def grant(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Give out a token; it is returned once and only its hash is kept.

    A name may have several: give out the new one, let its holder change over, revoke the old.
    """
    token = secrets.token_urlsafe(32)
    granted = Token(name, _digest(token), tuple(scopes))
    _write(path, [*read_tokens(path), granted])
    return token


def revoke(path: Path, name: str, *, but_newest: bool) -> int:
    """Take back the tokens of a name, or all of them but the newest; returns how many.

    Raises:
        UserError: The name has none.
    """
    tokens = read_tokens(path)
    if not any(token.name == name for token in tokens):
        raise UserError(f"{name} has no token.", f"Tokens are kept in {path}.")
    named = [token for token in tokens if token.name == name]
    gone = named[:-1] if but_newest else named
    _write(path, [token for token in tokens if token not in gone])
    return len(gone)


class Access:
    """The tokens of an environment, read again whenever their file changes."""

    def __init__(self, path: Path, rate: float) -> None:
        """Without a file everybody is let in: the server then listens to this machine only.

        Args:
            path: File of the tokens.
            rate: Requests a second of a token, in this process.
        """
        self._path = path
        self._rate = rate
        self._seen: tuple[int, int] | None = None
        self._tokens: list[tuple[bytes, Token]] = []
        self._buckets: dict[str, tuple[float, float]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the file again where it changed. Once there were tokens, none means nobody."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            if self._seen is not None:
                self._tokens = []
            return
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            tokens = read_tokens(self._path)
            self._tokens = [(token.sha256.encode(), token) for token in tokens]
            self._seen = seen

    def check(self, authorization: str, scope: Scope) -> None:
        """Let a request in, or not.

        Raises:
            RequestError: 401, 403 or 429.
        """
        name = "anybody"
        if self._seen is not None:
            token = self._known(authorization)
            if token is None:
                detail = "Send a token: 'Authorization: Bearer ...'."
                raise RequestError(401, "unauthorized", detail)
            if scope not in token.scopes:
                raise RequestError(403, "forbidden", f"This token has no scope '{scope}'.")
            name = token.name
        self._take(name)

    def _known(self, authorization: str) -> Token | None:
        """The token that was sent; every hash is compared, in constant time."""
        sent = _digest(authorization.removeprefix(_BEARER)).encode()
        known = None
        for digest, token in self._tokens:
            if hmac.compare_digest(sent, digest):
                known = token
        return known if authorization.startswith(_BEARER) else None

    def _take(self, name: str) -> None:
        now = time.monotonic()
        burst = max(1.0, self._rate * _BURST_SECONDS)
        left, since = self._buckets.get(name, (burst, now))
        left = min(burst, left + (now - since) * self._rate)
        if left < 1:
            detail = f"More than {self._rate:g} requests a second; wait."
            raise RequestError(429, "too-many-requests", detail)
        self._buckets[name] = (left - 1, now)


def _digest(token: str) -> str:
    """Tokens are long and random: a plain hash of them cannot be turned back."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _write(path: Path, tokens: Sequence[Token]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.touch(0o600)
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(tokens)))
    partial.replace(path)
