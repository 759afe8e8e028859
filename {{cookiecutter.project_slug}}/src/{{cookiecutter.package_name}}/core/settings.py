"""Environment configuration: `conf/base.yml`, then `conf/<env>.yml`, then environment variables.

Validated once, here; everything else receives a frozen `Settings`. What each key means stands in
`conf/base.yml`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import UserError

PACKAGE = __name__.partition(".")[0]
ENV_PREFIX = f"{PACKAGE}_".upper()
_Count = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0)]
_Limit = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LakehouseSettings(_Section):
    """Where the tables are."""

    root: str
    mounts: dict[str, str]
    storage_options: dict[str, str]


class MlflowSettings(_Section):
    """Where runs and model versions are recorded."""

    tracking_uri: str
    artifact_root: str | None
    experiment: str
    model: str


class TrainingSettings(_Section):
    """Windows, in days of prediction time, and the budget of the search."""

    train_days: _Count
    validation_days: _Count
    holdout_days: _Count
    min_rows: _Count
    trials: _Count
    tuning_rows: _Count
    rounds: _Count
    early_stopping_rounds: _Count
    bootstrap_resamples: Annotated[int, Field(ge=20)]


class DeploymentSettings(_Section):
    """What a version must satisfy, and who lets it into production."""

    approval: Literal["policy", "person"]
    four_eyes: bool
    clean_git: bool
    min_gain: float
    margin: _Share
    slice_margin: _Share
    max_latency_ms: _Limit
    max_size_mb: _Limit


class InferenceSettings(_Section):
    """How far the first scoring looks back, and how many rows are scored at a time."""

    first_days: _Count
    chunk_rows: _Count


class MonitoringSettings(_Section):
    """What is measured of production, and when it counts as violated."""

    window_days: _Count
    label_days: _Count
    min_rows: _Count
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    beyond: Annotated[float, Field(ge=1)]
    min_shift: _Share
    max_drop: _Share
    min_scored: _Share
    max_age_hours: _Limit


class AlertRule(_Section):
    """Metrics whose status alerts; names by pattern (`*`, `feature=*`)."""

    metric: str
    slice: str = "*"
    status: Literal["violated", "unknown"]


class AlertSettings(_Section):
    """What alerts, and which environment variables hold the addresses of those who are told."""

    rules: tuple[AlertRule, ...]
    receivers: tuple[str, ...]
    attempts: _Count


class RetrainingSettings(_Section):
    """When a model is trained again."""

    violated: _Count
    of_last: _Count
    cooldown_days: _Count
    at_most: _Count
    per_days: _Count
    every_days: _Count | None


class Settings(_Section):
    """One environment."""

    env: str
    project: Path
    problem: str = f"{PACKAGE}.problem"  # module that declares PROBLEM
    state: Path
    seed: int
    threads: Annotated[int, Field(ge=0)]
    lakehouse: LakehouseSettings
    mlflow: MlflowSettings
    training: TrainingSettings
    deployment: DeploymentSettings
    inference: InferenceSettings
    monitoring: MonitoringSettings
    alerts: AlertSettings
    retraining: RetrainingSettings


def load_settings(env: str, project: Path | None = None) -> Settings:
    """Read, merge and validate the configuration of an environment.

    Args:
        env: A file in `conf/` other than `base`.
        project: Folder that holds `conf/`; by default the nearest one upwards from here.

    Raises:
        UserError: No such environment, or a file, key or value that is wrong; names file and key.
    """
    project = project or _find_project(Path.cwd())
    names = sorted(path.stem for path in (project / "conf").glob("*.yml") if path.stem != "base")
    if env not in names:
        raise UserError(f"Unknown environment '{env}'.", f"Use one of: {', '.join(names)}.")
    layers: dict[str, dict[str, Any]] = {
        str(path): _read(path, project)
        for path in (project / "conf" / f"{it}.yml" for it in ("base", env))
    }
    for name in filter(lambda name: name.upper().startswith(ENV_PREFIX), os.environ):
        keys = name.upper().removeprefix(ENV_PREFIX).lower().split("__")
        value = _value(name)
        for key in reversed(keys):
            value = {key: value}
        layers[f"environment variable {name}"] = value
    merged: dict[str, Any] = {}
    for place, layer in layers.items():
        merged = _merge(merged, layer)
        if fixed := layer.keys() & {"env", "project"}:
            raise UserError(
                f"{place}: {fixed.pop()}: is not for setting.", "Remove it and run again."
            )
    try:
        return Settings.model_validate({**merged, "env": env, "project": project})
    except ValidationError as error:
        first = error.errors()[0]
        keys, missing = [str(part) for part in first["loc"]], first["type"] == "missing"
        places = [place for place, layer in layers.items() if _holds(layer, keys)] or list(layers)[
            :1
        ]
        given = "" if missing else f" (given: {first['input']!r})"
        message = f"{places[-1]}: {'.'.join(keys)}: {first['msg']}{given}"
        raise UserError(message, "Mend this key and run again.") from None


def _find_project(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "conf" / "base.yml").is_file():
            return folder
    raise UserError(
        f"No conf/base.yml in {start} or above it.", "Run this from inside the project's folder."
    )


def _read(path: Path, project: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(
            path.read_text(encoding="utf-8").replace("{project}", project.as_posix())
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"Cannot read {path}: {' '.join(str(error).split())}", "Mend the file."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a mapping of keys to values.", "Mend the file.")
    return {str(key): value for key, value in content.items()}


def _value(variable: str) -> Any:
    try:
        return yaml.safe_load(os.environ[variable])
    except yaml.YAMLError:
        raise UserError(
            f"environment variable {variable}: not YAML.", "Mend it and run again."
        ) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {
        key
        for key in base.keys() & over.keys()
        if isinstance(base[key], dict) and isinstance(over[key], dict)
    }
    return {**base, **over, **{key: _merge(base[key], over[key]) for key in both}}


def _holds(content: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    return isinstance(content, dict) and keys[0] in content and _holds(content[keys[0]], keys[1:])
