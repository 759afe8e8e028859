"""Environment configuration: `conf/base.yml`, then `conf/<env>.yml`, then environment variables.

Validated once, here; everything else receives a frozen `Settings`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import UserError

ENV_PREFIX = f"{__package__}_".upper()
_STRICT = ConfigDict(extra="forbid", frozen=True)
_Count = Annotated[int, Field(ge=1)]


class LakehouseSettings(BaseModel):
    """Where the Delta tables are.

    Attributes:
        root: Folder or object store address that this environment owns.
        mounts: Table name pattern (`raw_*`) to another environment's root, read only.
        storage_options: Passed to the object store.
    """

    model_config = _STRICT
    root: str
    mounts: dict[str, str] = {}
    storage_options: dict[str, str] = {}


class MlflowSettings(BaseModel):
    """Where runs and model versions are recorded."""

    model_config = _STRICT
    tracking_uri: str
    artifact_root: str | None
    experiment: str
    model: str


class TrainingSettings(BaseModel):
    """Windows in days of prediction time, counted back from the as-of; budget of the search."""

    model_config = _STRICT
    train_days: _Count
    validation_days: _Count
    holdout_days: _Count
    min_rows: Annotated[int, Field(ge=10, description="least rows in each window")]
    trials: _Count
    tuning_rows: _Count
    rounds: _Count
    early_stopping_rounds: _Count
    bootstrap_resamples: Annotated[int, Field(ge=20)]


class Settings(BaseSettings):
    """One environment's configuration."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )
    env: str
    project: Path
    seed: int
    threads: Annotated[int, Field(ge=0, description="0: all cores")]
    lakehouse: LakehouseSettings
    mlflow: MlflowSettings
    training: TrainingSettings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment variables win over the files, which arrive as init arguments."""
        return env_settings, init_settings

    @property
    def state(self) -> Path:
        """Local folder of this environment, for what is not shared: reports, unfinished searches."""
        return self.project / ".data" / self.env

    @property
    def reports(self) -> Path:
        """Folder for HTML reports."""
        return self.state / "reports"


def load_settings(env: str, project: Path | None = None) -> Settings:
    """Read, merge and validate the configuration of an environment.

    Args:
        env: Name of a file in `conf/` other than `base`.
        project: Folder that holds `conf/`; by default the nearest one upwards from here.

    Raises:
        UserError: No such environment, or a file, key or value that is wrong; names file and key.
    """
    project = project or _find_project(Path.cwd())
    base, chosen = project / "conf" / "base.yml", project / "conf" / f"{env}.yml"
    if not chosen.is_file() or env == "base":
        known = sorted(path.stem for path in chosen.parent.glob("*.yml") if path.stem != "base")
        raise UserError(f"Unknown environment '{env}'.", f"Use one of: {', '.join(known)}.")
    files = {base: _read(base), chosen: _read(chosen)}
    merged = _merge(*files.values())
    _refuse_unknown_variables(merged)
    try:
        settings = Settings(**merged, env=env, project=project)
    except ValidationError as error:
        raise UserError(*_explain(error, files)) from None
    return _resolve_paths(settings)


def _find_project(start: Path) -> Path:
    for folder in (start, *start.parents):
        if (folder / "conf" / "base.yml").is_file():
            return folder
    raise UserError(
        f"No conf/base.yml in {start} or above it.", "Run this from inside the project's folder."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Cannot read {path}: {reason}", "Mend the file.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a mapping of keys to values.", "Mend the file.")
    return content


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}__")


def _refuse_unknown_variables(merged: Mapping[str, Any]) -> None:
    known = {f"{ENV_PREFIX}{key}".upper() for key in _keys(Settings)} - {
        f"{ENV_PREFIX}{key}" for key in ("ENV", "PROJECT")
    }
    open_ended = tuple(
        f"{ENV_PREFIX}LAKEHOUSE__{key}__" for key in ("MOUNTS", "STORAGE_OPTIONS")
    )
    for variable in os.environ:
        name = variable.upper()
        if name.startswith(ENV_PREFIX) and name not in known and not name.startswith(open_ended):
            raise UserError(
                f"Environment variable {variable} names no setting.",
                f"Unset it, or use {ENV_PREFIX}<SECTION>__<KEY> with a section of conf/base.yml: "
                f"{', '.join(key for key in merged)}.",
            )


def _explain(error: ValidationError, files: Mapping[Path, dict[str, Any]]) -> tuple[str, str]:
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    variable = ENV_PREFIX + "__".join(keys).upper()
    where: object = next(
        (path for path, content in reversed(files.items()) if _holds(content, keys)),
        " or ".join(str(path) for path in files),
    )
    if variable in {name.upper() for name in os.environ}:
        where = f"environment variable {variable}"
    given = "" if first["type"] == "missing" else f" (given: {first['input']!r})"
    return f"{where}: {'.'.join(keys)}: {first['msg']}{given}", "Mend this key and run again."


def _holds(content: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True


def _resolve_paths(settings: Settings) -> Settings:
    """Make local folders absolute: relative ones count from the project's folder."""

    def absolute(place: str) -> str:
        scheme, sep, rest = place.partition(":///" if place.startswith("sqlite") else "://")
        if not sep:
            return str(settings.project / place)
        return f"{scheme}{sep}{settings.project / rest}" if scheme == "sqlite" else place

    lakehouse, mlflow = settings.lakehouse, settings.mlflow
    return settings.model_copy(
        update={
            "lakehouse": lakehouse.model_copy(
                update={
                    "root": absolute(lakehouse.root),
                    "mounts": {key: absolute(root) for key, root in lakehouse.mounts.items()},
                }
            ),
            "mlflow": mlflow.model_copy(
                update={
                    "tracking_uri": absolute(mlflow.tracking_uri),
                    "artifact_root": mlflow.artifact_root and absolute(mlflow.artifact_root),
                }
            ),
        }
    )
