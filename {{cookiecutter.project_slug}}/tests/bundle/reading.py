"""A bundle as Databricks' command line reads it: files joined, a target laid over, all filled in.

Names that a deployment would tell (the commit, the folder of the workspace) are made up here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ME = "ada"
TARGETS = ("dev", "staging", "prod")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
# Resources whose names differ for each person in development, and how.
_PREFIXES = {"schemas": f"dev_{ME}_", "registered_models": f"dev_{ME}_", "jobs": f"[dev {ME}] "}
_EXPERIMENTS = "experiments"


def files(root: Path = ROOT) -> dict[str, Any]:
    """What the files of the bundle in a folder say together."""
    bundle = _yaml(root / "databricks.yml")
    included = [path for pattern in bundle["include"] for path in sorted(root.glob(pattern))]
    return reduce(_joined, map(_yaml, included), bundle)


def read(
    target: str,
    root: Path = ROOT,
    more: Mapping[str, Any] = MappingProxyType({}),
    **given: Any,
) -> dict[str, Any]:
    """The bundle of a target, every reference filled in.

    Args:
        target: Its name.
        root: Folder of the bundle.
        more: Resources that Python adds, by kind and name.
        given: Values of variables, as `--var` gives them.

    Raises:
        KeyError: A reference leads nowhere.
    """
    bundle = _joined(files(root), {"resources": dict(more)})
    chosen = bundle.pop("targets")[target]
    values = {name: said.get("default") for name, said in bundle.pop("variables").items()}
    values |= chosen.pop("variables", {})
    bundle = _joined(bundle, chosen)
    if bundle.get("mode") == "development":
        _rename(bundle["resources"])
    place = f"/Workspace/Users/{ME}/.bundle"
    workspace = {
        "root_path": place,
        "file_path": f"{place}/files",
        "current_user": {"short_name": ME, "userName": ME},
    }
    named = {
        "var": values | given,
        "bundle": {**bundle["bundle"], "target": target, "git": {"commit": COMMIT}},
        "workspace": workspace | bundle.get("workspace", {}),
        "resources": _deployed(bundle["resources"]),
    }
    filled: dict[str, Any] = _filled(bundle, named)
    return filled


def _yaml(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _joined(one: Any, other: Any) -> Any:
    """Mappings joined key by key; of anything else, the other."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return other
    both = one.keys() & other.keys()
    return {**one, **other, **{key: _joined(one[key], other[key]) for key in both}}


def _rename(resources: dict[str, Any]) -> None:
    """Give resources the names that they have in development."""
    for kind, prefix in _PREFIXES.items():
        for resource in resources.get(kind, {}).values():
            resource["name"] = prefix + resource["name"]
    for experiment in resources.get(_EXPERIMENTS, {}).values():
        folder, _, name = experiment["name"].rpartition("/")
        experiment["name"] = f"{folder}/[dev {ME}] {name}"


def _deployed(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Resources as others refer to them, with the ids that a deployment would give."""
    return {
        kind: {name: {**fields, "id": f"{kind}-{name}"} for name, fields in named.items()}
        for kind, named in resources.items()
    }


def _filled(value: Any, named: Mapping[str, Any]) -> Any:
    """A value whose references are replaced by what they name."""
    if isinstance(value, dict):
        return {key: _filled(item, named) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, named) for item in value]
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        return _filled(_named(whole[1], named), named)
    return _REFERENCE.sub(lambda found: str(_filled(_named(found[1], named), named)), value)


def _named(path: str, named: Mapping[str, Any]) -> Any:
    return reduce(lambda tree, key: tree[key], path.split("."), named)
