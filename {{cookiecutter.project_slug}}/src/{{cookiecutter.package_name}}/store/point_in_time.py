"""Reading feature tables: what was known of an entity at a moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import narwhals as nw
import polars as pl

from ..core.contract import AVAILABLE_AT, KNOWN_AT, PREDICTION_TIME, Frame, Frames, Problem
from . import tables
from .lakehouse import Lakehouse

Versions = Mapping[str, int | None]
_ROW, _IS_SPINE, _TIME = "_feature_row", "_is_spine", "_time"


def point_in_time_join(
    spine: Frame, features: Frame, keys: Sequence[str], values: Sequence[str]
) -> Frame:
    """Give each spine row the newest feature row that was available at its prediction time.

    Both frames are stacked in time order and the last feature row is carried forward per key; this
    form has one meaning on every narwhals backend, where an as-of join exists only on some. The
    whole row is carried, so a null in the newest feature row stays null. A feature row that became
    available exactly at the prediction time counts as known.

    Args:
        spine: Columns `keys`, `prediction_time` (UTC) and any others.
        features: Columns `keys`, `available_at` (UTC) and `values`; unique in keys and time.
        keys: Entity columns; a spine row with a null key gets nulls.
        values: Feature columns to add.

    Returns:
        The spine, as many rows, with `values` added; null where nothing was available.
    """
    carried = spine.collect_schema().names()
    known = features.drop_nulls(list(keys)).select(
        *keys,
        nw.col(AVAILABLE_AT).alias(_TIME),
        nw.lit(0).alias(_IS_SPINE),
        nw.struct(*values).alias(_ROW),
    )
    asked = spine.with_columns(nw.col(PREDICTION_TIME).alias(_TIME), nw.lit(1).alias(_IS_SPINE))
    latest = nw.col(_ROW).fill_null(strategy="forward").over(*keys, order_by=[_TIME, _IS_SPINE])
    joined = (
        nw.concat([asked, known], how="diagonal")
        .with_columns(latest)
        .filter(nw.col(_IS_SPINE) == 1)
    )
    return joined.select(
        *carried, *(nw.col(_ROW).struct.field(name).alias(name) for name in values)
    )


def prepared(lakehouse: Lakehouse, problem: Problem, as_of: datetime, versions: Versions) -> Frames:
    """Prepared tables by source, as known at `as_of`; at the given Delta versions, else the newest."""
    known = nw.col(KNOWN_AT) <= as_of
    frames = {}
    for source in problem.sources:
        table = tables.prepared(source)
        frames[source.name] = lakehouse.scan(table, versions.get(table.name)).filter(known)
    return frames


def with_features(
    lakehouse: Lakehouse, problem: Problem, spine: Frame, as_of: datetime, versions: Versions
) -> Frame:
    """Join every feature table to the spine, as known at `as_of`; add what is computed from the row itself."""
    for item in problem.feature_tables:
        features = lakehouse.scan(
            tables.features(item), versions.get(tables.features(item).name)
        ).filter(nw.col(AVAILABLE_AT) <= as_of)
        spine = point_in_time_join(spine, features, tuple(item.keys), tuple(item.values))
    return problem.model.on_demand(spine)


def training_set(
    lakehouse: Lakehouse, problem: Problem, start: datetime, as_of: datetime, versions: Versions
) -> pl.DataFrame:
    """Labelled rows with the features that were available at each prediction time.

    Args:
        lakehouse: Tables of the environment.
        problem: Spine, labels, feature tables and inputs.
        start: First prediction time.
        as_of: End of prediction times (exclusive); a label that was not known then is not used.
        versions: Delta version to read of each table, else the newest.

    Returns:
        Keys, prediction time, slices, inputs and label, ordered by time and keys.
    """
    model, time = problem.model, nw.col(PREDICTION_TIME)
    frames = prepared(lakehouse, problem, as_of, versions)
    spine = model.spine(frames).filter(time >= start, time < as_of)
    labelled = spine.join(model.labels(frames).drop(KNOWN_AT), on=list(model.keys), how="inner")
    kept = (
        *model.keys,
        PREDICTION_TIME,
        *model.slices,
        *model.baseline,
        *model.features,
        model.target.label,
    )
    rows = with_features(lakehouse, problem, labelled, as_of, versions).select(*dict.fromkeys(kept))
    return lakehouse.collect(rows.sort(PREDICTION_TIME, *model.keys))
