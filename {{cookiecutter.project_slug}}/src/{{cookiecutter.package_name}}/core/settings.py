"""Environment configuration: defaults, then `conf/base.yml`, `conf/<env>.yml`, and variables.

The defaults stand here and belong to the template: a file in `conf/` holds only what its project
decided. All is validated once, here; everything else receives a frozen `Settings`.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import to_json
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from . import plain_yaml
from .errors import UserError
from .project import DATA_VARIABLE, PACKAGE, PROJECT_VARIABLE, project_above

ENV_PREFIX = f"{PACKAGE}_".upper()
_REMEDY = "Correct this setting and run again."
_THREE_LEVELS = re.compile(r"[^./: ]+(\.[^./: ]+){2}")
_NOT_FOR_SETTING = ("env", "project")

_KAFKA_OURS = {
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "partition.assignment.strategy",
    "transactional.id",
}
_PLAIN_ADDRESS = re.compile(r"[A-Za-z0-9./_\-=@:]+")

_Days = Annotated[int, Field(ge=1, le=36_500)]
_Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
_Share = Annotated[float, Field(ge=0, le=1_000, allow_inf_nan=False)]
_Limit = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
_Text = Annotated[str, Field(min_length=1)]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    retired: ClassVar[tuple[str, ...]] = ()  # settings of earlier versions: taken, without effect

    @model_validator(mode="before")
    @classmethod
    def _without_retired(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if key not in cls.retired}


class LakehouseSettings(_Section):
    """Where the tables are."""

    root: _Text
    """Folder or address that holds them."""
    mounts: dict[str, str] = {}
    """Tables of another environment that this one only reads: name pattern to root."""
    storage_options: dict[str, str] = {}
    """Credentials and the like, as Delta's Rust library has them."""

    @field_validator("root", "mounts")
    @classmethod
    def _without_escapes(cls, given: str | dict[str, str]) -> str | dict[str, str]:
        """Refuse addresses that the libraries below escape, each in its own way."""
        for place in given.values() if isinstance(given, dict) else [given]:
            if "://" in place and not _PLAIN_ADDRESS.fullmatch(place):
                raise ValueError(f"an address takes letters, digits and ./_-=@:, not '{place}'")
        return given


class SparkSettings(_Section):
    """The session of `engine: spark`; where one is active already, that one is taken."""

    master: _Text | None = "local[*]"
    """Cluster that a session is started on; null: as Spark's own configuration says."""
    remote: _Text | None = None
    """Spark Connect server (`sc://host:port`) that a session is opened on instead."""
    options: dict[str, str] = {}
    """Spark's settings, such as `spark.jars` with Delta's or `spark.driver.memory`."""


class MlflowSettings(_Section):
    """Where runs and model versions are recorded."""

    tracking_uri: _Text
    """MLflow server, or `sqlite:///` and a file."""
    registry_uri: _Text | None = None
    """Registry of versions (`databricks-uc`: Unity Catalog); null: the server's own."""
    artifact_root: str | None = None
    """Where files of runs go; null: where the server says."""
    experiment: _Text
    """Experiment that runs belong to."""
    model: _Text
    """Registered model; no other environment may use the same."""
    signing_key: _Variable | None = None
    """Environment variable with the key that signs registrations; null: a file of the state."""

    @property
    def in_catalog(self) -> bool:
        """Whether Unity Catalog holds the versions."""
        return (self.registry_uri or "").startswith("databricks-uc")

    @model_validator(mode="after")
    def _named_as_there(self) -> MlflowSettings:
        if self.in_catalog and not _THREE_LEVELS.fullmatch(self.model):
            raise ValueError("Unity Catalog names a `model` as catalog.schema.model")
        on_databricks = self.tracking_uri.startswith("databricks")
        if on_databricks and not self.experiment.startswith("/"):
            raise ValueError("Databricks names an `experiment` by its absolute path")
        return self


class FeatureSettings(_Section):
    """How feature tables are built."""

    chunk_rows: _Count = 10_000_000
    """Prepared rows whose features are built at a time, and rows that fill the online store."""
    poll_seconds: _Limit = 0.2
    """Seconds between two looks for events, where `follow` runs."""
    quiet_seconds: _Limit = 60
    """Seconds after which `follow` goes on without events."""


class TrainingSettings(_Section):
    """Windows, in days of prediction time, and the budget of the search.

    The windows end at the as-of: train, then validation, then holdout.
    """

    retired = ("bootstrap_resamples",)

    train_days: _Days = 365
    """Days to learn from; fewer where the data begin later."""
    validation_days: _Days = 30
    """Days that stop a fit and rank the trials."""
    holdout_days: _Days = 30
    """Days by which a version is judged."""
    min_rows: _Count = 1_000
    """Labelled rows that each window must have."""
    trials: _Count = 8
    """Parameters that are tried."""
    tuning_rows: _Count = 80_000
    """Rows that a trial learns from."""
    rounds: _Count = 300
    """Rounds of an iterative fit, at most."""
    early_stopping_rounds: _Count = 30
    """Rounds without progress on the validation rows before a fit stops."""


class DeploymentSettings(_Section):
    """What a version must satisfy, and who lets it into production."""

    approval: Literal["policy", "person"] = "policy"
    """person: a promotion waits for `approve` or `reject`."""
    four_eyes: bool = False
    """Whoever asked for a promotion cannot approve it."""
    identity: _Variable | None = None
    """Environment variable that tells who acts; `--who` must agree with it."""
    clean_git: bool = False
    """Only versions of committed code."""
    min_gain: Annotated[float, Field(ge=-1e9, le=1e9)] = 0
    """The gain over the baseline must surely (95 %) exceed this."""
    margin: _Share = 0.01
    """Share of the champion's metric by which a challenger may be worse."""
    slice_margin: _Share = 0.05
    """The same on each slice."""
    live_rows: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Labelled requests that champion and challenger must both have scored; 0: none."""
    max_slope: Annotated[float, Field(gt=1, le=1_000)] = 2
    """Outcomes must not surely rise so many times as steeply as scores, nor scores as outcomes."""
    max_bias: _Limit = 0.25
    """Spreads of the label by which scores may, on average, be farther off than the baseline."""
    max_cpu_ms: _Limit = 250
    """Median CPU time of scoring one row alone."""
    max_size_mb: _Limit = 50
    """Size of a version's files."""


class InferenceSettings(_Section):
    """How far the first scoring looks back, and how many rows are scored at a time."""

    first_days: _Days = 14
    """Days that the first scoring looks back."""
    chunk_rows: _Count = 500_000
    """Rows that are scored at a time."""


class OnlineSettings(_Section):
    """The online store, which `features` fills and online scoring reads."""

    history_hours: _Limit = 24
    """Hours before the newest build that it answers for."""
    redis: _Variable | None = None
    """Environment variable with the address of a Redis server that holds it; null: a file."""


class ServingSettings(_Section):
    """How requests are answered online."""

    tokens: _Text | None = None
    """File of the tokens' hashes; null: `tokens.json` of the state."""
    max_rows: _Count = 1_000
    """Rows of a request."""
    max_kb: _Count = 1_024
    """Size of a request's body."""
    body_seconds: _Limit = 5
    """Seconds in which a body must have arrived."""
    rate: _Limit = 10_000
    """Requests a second of a token, in each worker."""
    poll_seconds: _Limit = 0.5
    """Seconds between two looks at the registry."""
    sync_seconds: _Limit = 10
    """Seconds between two looks at the feature tables."""
    ship_seconds: _Limit = 5
    """Seconds after which the request log goes to the tables."""
    log_mb: _Count = 1_024
    """Size of the request log that may wait; then no more is answered."""
    challenger_share: Annotated[float, Field(ge=0, le=1)] = 0
    """Share of the entities, always the same ones, that the challenger scores, too."""
    challenger_answers: bool = False
    """Whether these get the challenger's prediction (canary), or the champion's (shadow)."""


class StreamSettings(_Section):
    """How requests of a stream are scored."""

    source: Literal["table", "kafka", "predictions"] = "table"
    """Requests of the table, or of Kafka's topic; or what another `stream` published there."""
    sink: Literal["tables", "kafka"] = "tables"
    """Where answers go: one place, which remembers what is answered."""
    batch_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Requests that are scored and committed together, at most."""
    poll_seconds: _Limit = 0.5
    """Seconds between two looks for requests, and at the registry."""
    sync_seconds: _Limit = 10
    """Seconds between two looks at the feature tables."""
    measure_seconds: _Limit = 60
    """Seconds whose lag, throughput and refusals are measured together."""
    max_lag_seconds: _Limit = 60
    """Seconds from a request to its prediction, at most."""
    max_refused: _Share = 0.01
    """Share of the requests that may go to the dead letters."""

    @model_validator(mode="after")
    def _remembered_together(self) -> StreamSettings:
        if self.sink == "kafka" and self.source != "kafka":
            raise ValueError(f"sink `kafka` answers source `kafka` only, not `{self.source}`")
        return self


class KafkaSettings(_Section):
    """The cluster that `stream` reads and writes."""

    servers: _Text | None = None
    """Its brokers: `host:port,host:port`."""
    requests: _Text = "requests"
    """Topic of the requests."""
    predictions: _Text = "predictions"
    """Topic of the answers."""
    dead_letters: _Text = "dead-letters"
    """Topic of what could not be scored."""
    group: _Text | None = None
    """Consumers that share the requests; null: those of the registered model."""
    instance: _Text | None = None
    """This consumer's name in the group, kept when it is started again; null: another each time."""
    options: dict[str, str] = {}
    """Settings of the client (librdkafka; on Spark, Java's), such as `security.protocol`."""
    secrets: dict[str, _Variable] = {}
    """Settings of the client that environment variables hold: setting to variable."""

    @field_validator("options", "secrets")
    @classmethod
    def _without_ours(cls, given: dict[str, str]) -> dict[str, str]:
        """Refuse what is decided elsewhere, or must be as it is for each request to count once."""
        if ours := sorted(given.keys() & _KAFKA_OURS):
            raise ValueError(f"not for setting: {', '.join(ours)}")
        return given


class MonitoringSettings(_Section):
    """What is measured of production, and when it counts as violated."""

    window_days: _Days = 7
    """Length of the windows; the first begins where the data begin."""
    label_days: _Days = 14
    """So long after its end a window is measured again, for labels that come late."""
    min_rows: _Count = 200
    """With fewer, the status is unknown."""
    sample_rows: _Count = 500_000
    """Rows of a window that performance is measured on; of more, so many are drawn."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """Chance that any column of a window alarms although nothing has changed."""
    beyond: Annotated[float, Field(ge=1, le=1_000)] = 2
    """Drift counts from so many times the farthest window of the training."""
    min_shift: _Share = 0.05
    """Smaller distances and shares never count."""
    max_drop: _Share = 0.05
    """Share by which performance may surely be worse than on the holdout."""
    min_scored: _Share = 0.99
    """Share of the rows due that must be scored."""
    max_age_hours: _Limit = 26
    """Hours since a pipeline last completed its tables."""


class AlertRule(_Section):
    """Metrics whose status alerts; names by pattern (`*`, `feature=*`)."""

    metric: _Text
    slice: str = "*"
    status: Literal["violated", "unknown"]


class AlertSettings(_Section):
    """What alerts, and which environment variables hold the addresses of those who are told."""

    rules: tuple[AlertRule, ...] = (
        AlertRule(metric="*", status="violated"),
        AlertRule(metric="scored", status="unknown"),
    )
    """What alerts."""
    receivers: tuple[str, ...] = ()
    """Names of environment variables that hold apprise addresses, such as ALERT_URL."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Attempts to deliver, a second apart, then two, then four; what fails is kept."""


class RetrainingSettings(_Section):
    """When a model is trained again: `violated` of the `of_last` windows, the newest among them."""

    violated: _Count = 2
    """Windows that must be violated."""
    of_last: _Count = 3
    """Newest windows that are looked at."""
    cooldown_days: _Days = 21
    """Days since the last training, whether its model was promoted or not."""
    at_most: _Count = 6
    """Retrainings ..."""
    per_days: _Days = 180
    """... in so many days."""
    every_days: _Days | None = 90
    """Trained again so many days after the last training, whatever is violated; null: never."""


class Settings(BaseSettings):
    """One environment."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
    )

    env: str
    project: Path
    problem: _Text = f"{PACKAGE}.problem"
    """Module that declares PROBLEM."""
    state: Path
    """Folder of reports, journals and marks."""
    state_address: _Text | None = None
    """Address that keeps reports and journals (`s3://...`), for runners that keep nothing."""
    storage_name: _Text | None = None
    """Name that tables and registry must carry, given once by `init`; null: any will do."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of every draw."""
    threads: Annotated[int, Field(ge=0, le=1_024)] = 0
    """Threads of a fit; 0: all cores."""
    engine: Literal["polars", "spark"] = "polars"
    """What computes: polars in this process, or Spark on a cluster."""
    spark: SparkSettings = SparkSettings()
    lakehouse: LakehouseSettings
    mlflow: MlflowSettings
    features: FeatureSettings = FeatureSettings()
    training: TrainingSettings = TrainingSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    inference: InferenceSettings = InferenceSettings()
    online: OnlineSettings = OnlineSettings()
    serving: ServingSettings = ServingSettings()
    stream: StreamSettings = StreamSettings()
    kafka: KafkaSettings = KafkaSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    alerts: AlertSettings = AlertSettings()
    retraining: RetrainingSettings = RetrainingSettings()

    @property
    def reports(self) -> Path:
        """Folder of the pages."""
        return self.state / "reports"


def load_settings(env: str, project: Path | None = None) -> Settings:
    """Read, merge and validate the configuration of an environment.

    Args:
        env: A file in `conf/` other than `base`.
        project: Folder that holds `conf/`; by default as `find_project`.

    Raises:
        UserError: No such environment, or a file, key or value that is wrong; names file and key.
    """
    project = project or find_project(Path.cwd())
    folder = project / "conf"
    names = sorted(path.stem for path in folder.glob("*.yml") if path.stem != "base")
    if env not in names:
        raise UserError(f"Unknown environment '{env}'.", f"Use one of: {', '.join(names)}.")
    filled = {"{project}": project.as_posix(), "{data}": _data_folder(project), "{env}": env}
    files = {
        str(path): plain_yaml.read(path, filled)
        for path in (folder / "base.yml", folder / f"{env}.yml")
    }
    layers = {**files, **_variables()}
    _refuse_fixed(layers)

    class Layered(Settings):
        """The settings of this environment, from its files and variables."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            later_first = reversed(files.values())
            yaml_layers = (_Layer(settings_cls, content) for content in later_first)
            return (init_settings, env_settings, *yaml_layers)

    try:
        return Layered(env=env, project=project)  # type: ignore[call-arg]
    except SettingsError as error:
        field = str(error).split('"')[1]
        raise UserError(f"{_not_json(field)}: not JSON.", _REMEDY) from None
    except RecursionError:
        raise UserError("A setting is nested too deeply.", _REMEDY) from None
    except ValidationError as error:
        found = [_line(fault, layers) for fault in error.errors()]
        raise UserError("\n".join(found), _REMEDY) from None


class _Layer(YamlConfigSettingsSource):
    """A file that has been read already."""

    def __init__(self, settings_cls: type[BaseSettings], content: dict[str, Any]) -> None:
        self._content = content
        super().__init__(settings_cls, yaml_file=Path())

    def _read_files(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self._content


def find_project(start: Path) -> Path:
    """The folder that holds `conf/`: named by the machine, or the nearest one upwards.

    Raises:
        UserError: There is none.
    """
    folder = project_above(start)
    if folder is None:
        message = f"No conf/base.yml in {start} or above it."
        raise UserError(message, "Run this from inside the project's folder, or give --project.")
    if not (folder / "conf" / "base.yml").is_file():
        message = f"No conf/base.yml in {folder}, which --project or {PROJECT_VARIABLE} names."
        raise UserError(message, "Name the folder that holds conf/.")
    return folder


def _data_folder(project: Path) -> str:
    """Where `{data}` is: a folder that the machine names, outside any checkout, or in the project.

    Raises:
        UserError: The machine names one that depends on where a command is run.
    """
    given = os.environ.get(DATA_VARIABLE)
    if not given:
        return (project / ".data").as_posix()
    if not Path(given).is_absolute():
        message = f"environment variable {DATA_VARIABLE}: '{given}' is not an absolute path."
        raise UserError(message, _REMEDY)
    return Path(given).as_posix()


def _variables() -> dict[str, dict[str, Any]]:
    """Environment variables of ours by their title, as nested mappings."""
    layers = {}
    for name, value in os.environ.items():
        if not name.upper().startswith(ENV_PREFIX):
            continue
        nested: Any = value
        for key in reversed(name.upper().removeprefix(ENV_PREFIX).lower().split("__")):
            nested = {key: nested}
        layers[f"environment variable {name}"] = nested
    return layers


def _not_json(field: str) -> str:
    """The variable of a field that should hold JSON and does not."""
    for name, value in os.environ.items():
        if name.upper().startswith(f"{ENV_PREFIX}{field}".upper()):
            try:
                json.loads(value)
            except ValueError:
                return f"environment variable {name}"
    return f"environment variable {ENV_PREFIX}{field.upper()}"


def _refuse_fixed(layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse settings that are not for setting, and variables that set nothing."""
    for place, layer in layers.items():
        for key in layer:
            if key in _NOT_FOR_SETTING:
                message = f"{place}: {key}: is not for setting."
                raise UserError(message, "Remove it and run again.")
            if place.startswith("environment") and key not in Settings.model_fields:
                raise UserError(f"{place}: there is no setting {key}.", _REMEDY)


def _line(fault: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]) -> str:
    """One fault in a line: where, which key, what is wrong with it."""
    keys = [str(part) for part in fault["loc"]]
    places = [place for place, layer in layers.items() if _holds(layer, keys)]
    place = places[-1] if places else next(iter(layers))
    given = "" if fault["type"] == "missing" else f" (given: {_shown(fault['input'])})"
    return f"{place}: {'.'.join(keys)}: {fault['msg']}{given}"


def _shown(given: object) -> str:
    """What was given, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(given)


def _holds(content: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    return isinstance(content, dict) and keys[0] in content and _holds(content[keys[0]], keys[1:])


def described() -> Iterator[tuple[str, str, str]]:
    """Every setting: its key, its default, what it means."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, inner in section.model_fields.items():
                yield f"{name}.{key}", _default(inner), inner.description or ""
        elif name not in _NOT_FOR_SETTING:
            yield name, _default(field), field.description or ""


def _default(field: Any) -> str:
    """As it would stand in a file."""
    return "required" if field.is_required() else to_json(field.default).decode()
