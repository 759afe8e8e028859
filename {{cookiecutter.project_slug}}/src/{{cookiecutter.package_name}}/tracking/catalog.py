"""Unity Catalog as the registry: what it asks of names, and how it holds the tags of versions.

It takes at most 50 tags of at most 1,000 characters, with none of `. , - = / :` in their keys
(https://docs.databricks.com/aws/en/database-objects/tags). A registry of MLflow's own holds tags as
they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag

from ..core.errors import UserError

MOST_CHARACTERS = 1_000
FOLDER = "tags"
_DOT = "__"
_ELSEWHERE = "sha256:"


def key_there(key: str) -> str:
    """A tag's key as the catalog holds it."""
    return key.replace(".", _DOT)


def file_of(digest: str) -> str:
    """Artifact of a version's run that holds a long value."""
    return f"{FOLDER}/{digest}.txt"


def written(tags: Mapping[str, str], keep: Callable[[str, str], object]) -> dict[str, str]:
    """Tags as the catalog holds them.

    Args:
        tags: Of a version.
        keep: Called with the artifact's name and the text of each value that is too long.

    Returns:
        Keys without dots; in the place of a value that is too long, its digest.
    """
    held = {}
    for key, value in tags.items():
        if len(value) > MOST_CHARACTERS:
            digest = _sha256(value)
            keep(file_of(digest), value)
            held[key_there(key)] = f"{_ELSEWHERE}{digest}"
        else:
            held[key_there(key)] = value
    return held


def read(found: ModelVersion, fetch: Callable[[str], str]) -> ModelVersion:
    """A version with the tags that were meant.

    Args:
        found: As the catalog holds it.
        fetch: Text of an artifact by name.

    Raises:
        UserError: A long value is not the one that was written.
    """
    fields = dict(found)
    fields["tags"] = [
        ModelVersionTag(  # type: ignore[no-untyped-call]
            key.replace(_DOT, "."), _meant(key, value, found, fetch)
        )
        for key, value in found.tags.items()
    ]
    return ModelVersion(**fields)


def _meant(key: str, value: str, found: ModelVersion, fetch: Callable[[str], str]) -> str:
    if not value.startswith(_ELSEWHERE):
        return value
    digest = value.removeprefix(_ELSEWHERE)
    text = fetch(file_of(digest))
    if _sha256(text) != digest:
        message = f"What version {found.version} says of {key} is not what was written."
        raise UserError(message, f"Look into {file_of(digest)} of its run {found.run_id}.")
    return text


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
