"""Reading feature tables: what was known of an entity at a moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import narwhals as nw

from .contract import AVAILABLE_AT, PREDICTION_TIME, FeatureTable, Frame
from .lakehouse import Lakehouse

_ROW, _IS_SPINE, _TIME = "_feature_row", "_is_spine", "_time"


def point_in_time_join(spine: Frame, features: Frame, keys: Sequence[str], values: Sequence[str]) -> Frame:
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
    return (
        nw.concat([asked, known], how="diagonal")
        .with_columns(
            nw.col(_ROW)
            .fill_null(strategy="forward")
            .over(*keys, order_by=[_TIME, _IS_SPINE])
        )
        .filter(nw.col(_IS_SPINE) == 1)
        .select(*carried, *(nw.col(_ROW).struct.field(name).alias(name) for name in values))
    )


def join_features(
    lakehouse: Lakehouse,
    spine: Frame,
    tables: Iterable[FeatureTable],
    as_of: datetime,
    versions: Mapping[str, int | None] | None = None,
) -> Frame:
    """Join every feature table to the spine, as known at each prediction time and by `as_of`."""
    for table in tables:
        version = (versions or {}).get(table.table.name)
        features = lakehouse.scan(table.table, version).filter(nw.col(AVAILABLE_AT) <= as_of)
        spine = point_in_time_join(spine, features, tuple(table.keys), tuple(table.values))
    return spine
