"""Which versions answer: a file that the follower replaces and every worker watches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

POINTER = "pointer.json"
VERSIONS = "versions"


class Pointed(msgspec.Struct, frozen=True):
    """A version beside the pointer, and the digest of its files."""

    number: str
    digest: str


class Pointer(msgspec.Struct, frozen=True):
    """Which versions answer, from a moment on that all workers wait for."""

    champion: Pointed
    challenger: Pointed | None
    from_time: float  # seconds since 1970


def read_pointer(folder: Path) -> Pointer | None:
    """The pointer; None before the first."""
    try:
        return msgspec.json.decode((folder / POINTER).read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None


def write_pointer(folder: Path, pointer: Pointer) -> None:
    """Replace the pointer in one step."""
    partial = folder / f".{POINTER}.partial"
    partial.write_bytes(msgspec.json.encode(pointer))
    partial.replace(folder / POINTER)


def folder_of(folder: Path, number: str) -> Path:
    """Where a version's estimator lies."""
    return folder / VERSIONS / number


def digest_of(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
