"""YAML as configuration needs it: small, without aliases, each key once."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

_MOST_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """Refuses aliases, which let a few lines stand for billions, and keys that come twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            message = "aliases (*name) are not taken here; write the value out"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 as in yaml
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                message = "a key is a text"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            if key.value in seen:
                message = f"the key {key.value} comes twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path, filled: dict[str, str]) -> dict[str, Any]:
    """A file's content: a mapping of keys to values.

    Args:
        path: Of the file.
        filled: Texts to put in for others, before the file is parsed.

    Raises:
        UserError: Not readable, not YAML, or no mapping; names the file.
    """
    try:
        content = yaml.load(_text(path, filled), _Loader)  # noqa: S506 it is a safe one
    except RecursionError:
        raise UserError(f"Cannot read {path}: nested too deeply.", "Correct the file.") from None
    # AttributeError: a timestamp that is none.
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Cannot read {path}: {reason}", "Correct the file.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a mapping of keys to values.", "Correct the file.")
    return {str(key): value for key, value in content.items()}


def _text(path: Path, filled: dict[str, str]) -> str:
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        message = f"not a file of at most {_MOST_BYTES:,} bytes"
        raise OSError(message)
    text = path.read_text(encoding="utf-8")
    for placeholder, value in filled.items():
        text = text.replace(placeholder, value)
    return text
