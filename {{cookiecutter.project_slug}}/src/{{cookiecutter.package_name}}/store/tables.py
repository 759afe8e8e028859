"""Every table of an environment, declared once: schema, keys, and the column that says when."""

from __future__ import annotations

from dataclasses import replace

import narwhals as nw

from ..core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    UTC_TIME,
    FeatureTable,
    Problem,
    Schema,
    Source,
    Table,
)

MEASUREMENTS = Table(
    name="metrics",
    schema={
        "producer": nw.String,
        "subject": nw.String,
        "window_start": UTC_TIME,
        "window_end": UTC_TIME,
        "slice": nw.String,
        "metric": nw.String,
        "value": nw.Float64,
        "lower": nw.Float64,
        "upper": nw.Float64,
        "threshold": nw.Float64,
        "status": nw.String,
        "rows": nw.Int64,
    },
    keys=("producer", "subject", "window_start", "window_end", "slice", "metric"),
    time="window_end",
)
"""What evaluation, comparison and monitoring measured, and how each run of a pipeline went."""

TRANSITIONS = Table(
    name="transitions",
    schema={
        "sequence": nw.Int64,
        "at": UTC_TIME,
        "action": nw.String,
        "version": nw.String,
        "from_stage": nw.String,
        "to_stage": nw.String,
        "champion": nw.String,
        "who": nw.String,
        "why": nw.String,
    },
    keys=("sequence",),
    time="at",
)
"""Who moved which version between stages, when and why."""
CHAMPIONS_STAGE = "Production"  # whoever is moved there last is the champion

ALERTS = Table(
    name="alerts",
    schema={
        "at": UTC_TIME,
        "metric": nw.String,
        "slice": nw.String,
        "status": nw.String,
        "receiver": nw.String,
        "kind": nw.String,
        "text": nw.String,
        "sent_at": UTC_TIME,
    },
    keys=("at", "metric", "slice", "status", "receiver"),
    time="at",
)
"""Notices, a row per receiver, and when each arrived."""
LOG = "log"  # the receiver that always has its notices
OPENED = "opened"  # kinds of notices
RECOVERED = "recovered"

BATCH = "batch"  # the request of all rows that batch inference scored

RETRAININGS = Table(
    name="retrainings",
    schema={"at": UTC_TIME, "retrain": nw.Boolean, "why": nw.String, "outcome": nw.String},
    keys=("at",),
    time="at",
)
"""Decisions whether to train again, and what became of them."""


DECLARATIONS = Table(
    name="declarations",
    schema={"source": nw.String, "digest": nw.String, "at": UTC_TIME},
    keys=("source",),
    time="at",
)
"""What each source was like when its rows were loaded: see `data/changes.py`."""

ENVIRONMENT = Table("environment", {"name": nw.String, "at": UTC_TIME}, ("name",), "at")
"""One row: what the environment is called, and since when."""


def raw(source: Source) -> Table:
    """Rows as the source gave them, appended once."""
    return Table(f"raw_{source.name}", {**source.raw, KNOWN_AT: UTC_TIME}, (), KNOWN_AT)


def events(source: Source) -> Table:
    """Rows of a source that others append as they come, in place of or besides its `load`.

    An event without `known_at` became known when it was committed.
    """
    return replace(raw(source), name=f"events_{source.name}")


def prepared(source: Source) -> Table:
    """Rows that passed every check."""
    schema = {**source.prepared, KNOWN_AT: UTC_TIME}
    return Table(f"prepared_{source.name}", schema, source.keys, KNOWN_AT)


def quarantine(source: Source) -> Table:
    """Rows that failed, with the checks that they failed in `reason`."""
    schema = {**source.prepared, KNOWN_AT: UTC_TIME, "reason": nw.String}
    return Table(f"quarantine_{source.name}", schema, (), KNOWN_AT)


def features(declared: FeatureTable) -> Table:
    """What was known of an entity from `available_at` on."""
    schema = {**declared.keys, AVAILABLE_AT: UTC_TIME, **declared.values}
    keys = (*declared.keys, AVAILABLE_AT)
    return Table(f"features_{declared.name}", schema, keys, AVAILABLE_AT)


def predictions(problem: Problem) -> Table:
    """One row per entity and prediction time: the prediction, and what it was made with."""
    made_with = {"model_version": nw.String, "feature_versions": nw.String}
    return _scored(problem, "predictions", made_with)


def inference_log(problem: Problem) -> Table:
    """One row per scored request: its inputs, the prediction, the version, and `latency_ms`.

    That is of an online request the time until its answer was ready, of a row in a batch or a
    stream its share of the batch's time. An entity may be asked for several times at the same
    moment online and in streams, never in batches: their rows all have the `request_id` BATCH.
    """
    texts = problem.model.categorical
    inputs: Schema = {
        name: nw.String if name in texts else nw.Float64 for name in problem.model.features
    }
    how: Schema = {
        "request_id": nw.String,
        "model_version": nw.String,
        "feature_versions": nw.String,
        "latency_ms": nw.Float64,
    }
    table = _scored(problem, "inference_log", {**inputs, **how})
    return replace(table, keys=(*table.keys, "request_id"))


def requests(problem: Problem) -> Table:
    """Rows that ask for a prediction, appended by whoever asks; `stream` scores each once.

    A request without a `request_id` gets one; `requested_at` tells how long an answer took.
    """
    sent: Schema = {"request_id": nw.String, "requested_at": UTC_TIME}
    return Table("requests", {**sent, **problem.scored.prepared}, (), "requested_at")


def dead_letters(problem: Problem) -> Table:
    """Requests that could not be scored, as they were sent, with the reason."""
    table = requests(problem)
    return replace(table, name="dead_letters", schema={**table.schema, "reason": nw.String})


def shadow_log(problem: Problem) -> Table:
    """One row per request that another version scored, too, without giving the answer."""
    return replace(inference_log(problem), name="shadow_log")


def outcomes(problem: Problem) -> Table:
    """One row per prediction whose label is known."""
    learned: Schema = {"model_version": nw.String, "label": nw.Float64, KNOWN_AT: UTC_TIME}
    return _scored(problem, "outcomes", learned)


def inputs(problem: Problem) -> list[Table]:
    """The tables that features and labels are read from."""
    sources = [prepared(source) for source in problem.sources]
    return [*sources, *(features(item) for item in problem.feature_tables)]


def fed(problem: Problem) -> list[Table]:
    """The tables that rows of sources pass through, to the feature tables."""
    kinds = (events, raw, prepared, quarantine)
    sources = [kind(source) for source in problem.sources for kind in kinds]
    return [*sources, *(features(item) for item in problem.feature_tables)]


def every(problem: Problem) -> list[Table]:
    """All tables that an environment may hold, in the order in which rows pass through them."""
    logs = [inference_log(problem), shadow_log(problem)]
    streamed = [requests(problem), dead_letters(problem)]
    scored = [*streamed, predictions(problem), *logs, outcomes(problem)]
    return [*fed(problem), *scored, DECLARATIONS, MEASUREMENTS, TRANSITIONS, ALERTS, RETRAININGS]


def _scored(problem: Problem, name: str, values: Schema) -> Table:
    entity = {key: problem.scored.prepared[key] for key in problem.model.keys}
    schema = {**entity, PREDICTION_TIME: UTC_TIME, **problem.model.target.said, **values}
    return Table(name, schema, (*entity, PREDICTION_TIME), PREDICTION_TIME)
