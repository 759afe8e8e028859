"""What was known at a moment: prepared tables, features of an entity, the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial

import narwhals as nw
import polars as pl

from ..core.contract import (
    AVAILABLE_AT,
    KNOWN_AT,
    PREDICTION_TIME,
    Frame,
    Frames,
    Problem,
    returned,
)
from ..core.errors import UserError
from . import tables
from .lakehouse import Lakehouse
from .parts import in_parts

Versions = Mapping[str, int | None]
# Columns that the join adds and takes away again.
_ROW = "_feature_row"
_IS_SPINE = "_is_spine"
_TIME = "_time"
_SAMPLE_ROWS = 500


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


def newest_of_each(features: Frame, keys: Sequence[str]) -> Frame:
    """The newest feature row of each entity.

    Args:
        features: Columns `keys`, `available_at` (UTC) and others; unique in keys and time.
        keys: Entity columns.
    """
    newest = features.group_by(*keys).agg(nw.col(AVAILABLE_AT).max())
    return features.join(newest, on=[*keys, AVAILABLE_AT], how="semi")


@contextmanager
def newest_in_parts(
    lakehouse: Lakehouse, features: Frame, keys: Sequence[str], at_most: int
) -> Iterator[Frame]:
    """The newest feature row of each entity, looked for in one part of the time after the other.

    So a long past takes the memory of a part, and of the entities.

    Args:
        lakehouse: Whose engine computes.
        features: As of `newest_of_each`.
        keys: Entity columns.
        at_most: Rows of a part.

    Yields:
        The rows, which are there until the end.
    """
    time = nw.col(AVAILABLE_AT)
    newest = features
    with ExitStack() as staged:
        for number, (start, end) in enumerate(in_parts(lakehouse, features, AVAILABLE_AT, at_most)):
            part = features.filter(time >= start, time < end)
            if number:
                part = nw.concat([newest, part], how="vertical")
            before = staged.pop_all()
            newest = staged.enter_context(lakehouse.staged(newest_of_each(part, keys)))
            before.close()
        yield newest


def only_finite(rows: Frame, names: Iterable[str]) -> Frame:
    """Rows whose named columns hold null where they held NaN or an infinite number."""
    schema = rows.collect_schema()
    floats = [name for name in names if name in schema and schema[name].is_float()]
    if not floats:
        return rows
    return rows.with_columns(
        nw.when(nw.col(name).is_finite()).then(nw.col(name)).alias(name) for name in floats
    )


def prepared(lakehouse: Lakehouse, problem: Problem, as_of: datetime, versions: Versions) -> Frames:
    """Prepared tables by source, as known at `as_of`.

    Args:
        lakehouse: Tables of the environment.
        problem: Its sources.
        as_of: Rows known later are left out.
        versions: Delta version to read of each table, else the newest.
    """
    frames = {}
    for source in problem.sources:
        table = tables.prepared(source)
        rows = lakehouse.scan(table, versions.get(table.name))
        frames[source.name] = rows.filter(nw.col(KNOWN_AT) <= as_of)
    return frames


def available(
    lakehouse: Lakehouse, problem: Problem, as_of: datetime, versions: Versions
) -> Frames:
    """Feature tables by name, as available at `as_of`.

    Args:
        lakehouse: Tables of the environment.
        problem: Its feature tables.
        as_of: Features that became available later are left out.
        versions: Delta version to read of each table, else the newest.
    """
    frames = {}
    for declared in problem.feature_tables:
        table = tables.features(declared)
        rows = lakehouse.scan(table, versions.get(table.name))
        frames[declared.name] = rows.filter(nw.col(AVAILABLE_AT) <= as_of)
    return frames


def seen_by(
    lakehouse: Lakehouse,
    problem: Problem,
    spines: Iterable[Frame],
    as_of: datetime,
    versions: Versions,
) -> Iterator[tuple[Frame, Frames]]:
    """Each spine with the feature rows that it can see.

    Those are what became available while its prediction times pass, and of what came before, the
    newest row of each entity. The latter are carried from one spine to the next, so that spines in
    the order of time read a long table once.

    Args:
        lakehouse: Tables of the environment.
        problem: Its feature tables.
        spines: With prediction times.
        as_of: Features that became available later are left out.
        versions: Delta version to read of each table, else the newest.

    Yields:
        A spine, and rows of each feature table, which are there until the next one is asked for.
    """
    time = nw.col(AVAILABLE_AT)
    features = available(lakehouse, problem, as_of, versions)
    carried: dict[str, Frame] = {}
    until = None
    with ExitStack() as staged:
        for spine in spines:
            asked = _asked(lakehouse, spine)
            if asked is None:
                yield spine, features
                continue
            first, last = asked
            seen = {}
            before = staged.pop_all()
            for table in problem.feature_tables:
                rows = features[table.name]
                earlier = rows.filter(time <= first)
                if until and until <= first:
                    passed = earlier.filter(time > until)
                    earlier = nw.concat([carried[table.name], passed], how="vertical")
                newest = newest_of_each(earlier, tuple(table.keys))
                held = staged.enter_context(lakehouse.staged(newest))
                between = rows.filter(time > first, time <= last)
                carried[table.name] = held
                seen[table.name] = nw.concat([held, between], how="vertical")
            before.close()
            until = first
            yield spine, seen


def _asked(lakehouse: Lakehouse, spine: Frame) -> tuple[datetime, datetime] | None:
    """Earliest and latest prediction time of a spine; None where it has no rows."""
    time = nw.col(PREDICTION_TIME)
    bounds = spine.select(time.min().alias("first"), time.max().alias("last"))
    first, last = lakehouse.collect(bounds).row(0)
    return None if first is None else (first, last)


def with_features(lakehouse: Lakehouse, problem: Problem, spine: Frame, features: Frames) -> Frame:
    """Join every feature table to the spine and add what is computed from the row itself.

    `on_demand` is shown no column that the model forbids, wherever it may come from.

    Args:
        lakehouse: Tables of the environment.
        problem: Its feature tables, and `on_demand`.
        spine: Keys, prediction time, and what the row itself tells.
        features: Rows of each feature table that prediction times of the spine can see.
    """
    for declared in problem.feature_tables:
        known = features[declared.name]
        spine = point_in_time_join(spine, known, tuple(declared.keys), tuple(declared.values))
    present = spine.collect_schema().names()
    telling = [name for name in problem.model.forbidden if name in present]
    computing = partial(_with_computed, problem.model.on_demand)
    inputs = lakehouse.each_row(spine.drop(telling), computing)
    return only_finite(inputs, problem.model.features)


def _with_computed(on_demand: Callable[[Frame], Frame], rows: Frame) -> Frame:
    """Rows with what the problem computes from each by itself."""
    return returned("`on_demand` of the problem", on_demand(rows))


def spine_of(problem: Problem, frames: Frames) -> Frame:
    """Rows that ask for a prediction, made of the scored source alone, as where there is no other.

    Args:
        problem: Its spine.
        frames: Prepared tables by source.

    Raises:
        UserError: It asks for another source, or returns nothing.
    """
    scored = problem.model.scored
    try:
        rows = problem.model.spine({scored: frames[scored]})
    except KeyError as error:
        message = f"`spine` of the problem asks for {error}; it is made of '{scored}' alone."
        remedy = "What other sources tell belongs in a feature table, or in the label."
        raise UserError(message, remedy) from None
    return returned("`spine` of the problem", rows)


def labels_of(problem: Problem, frames: Frames) -> Frame:
    """Labels, null where they are no finite number.

    Args:
        problem: Its labels.
        frames: Prepared tables by source.

    Raises:
        UserError: It returns nothing.
    """
    rows = returned("`labels` of the problem", problem.model.labels(frames))
    return only_finite(rows, [problem.model.target.label])


def training_set(
    lakehouse: Lakehouse,
    problem: Problem,
    start: datetime,
    as_of: datetime,
    versions: Versions,
    extra: Sequence[str] = (),
) -> pl.DataFrame:
    """Labelled rows with the features that were available at each prediction time.

    Labels are joined last: nothing that computes an input has seen one.

    Args:
        lakehouse: Tables of the environment.
        problem: Spine, labels, feature tables and inputs.
        start: First prediction time.
        as_of: End of prediction times (exclusive); a label that was not known then is not used.
        versions: Delta version to read of each table, else the newest.
        extra: Further columns, such as inputs of a version that the model no longer declares.

    Returns:
        Keys, prediction time, slices, inputs, extra columns and label, ordered by time and keys.

    Raises:
        UserError: A column that rows do not have, or no longer; an input named as the label, or
            labels that are all null.
    """
    model = problem.model
    time = nw.col(PREDICTION_TIME)
    frames = prepared(lakehouse, problem, as_of, versions)
    spine = spine_of(problem, frames).filter(time >= start, time < as_of)
    given = labels_of(problem, frames)
    labels = given.drop(KNOWN_AT, strict=False).drop_nulls(model.target.label)
    keys = list(model.keys)
    labelled = spine.join(labels, on=keys, how="semi")
    kept = (
        *model.keys,
        PREDICTION_TIME,
        *model.slices,
        *model.baseline,
        *model.features,
        *extra,
        model.target.label,
    )
    features = available(lakehouse, problem, as_of, versions)
    inputs = with_features(lakehouse, problem, labelled, features)
    if model.target.label in inputs.collect_schema():
        message = f"The inputs hold a column {model.target.label}, which is the label's name."
        raise UserError(message, "Rename or drop it in `spine` or `on_demand` of the problem.")
    rows = inputs.join(labels, on=keys, how="inner")
    known = rows.collect_schema()
    inputs_named = (*model.features, *model.categorical, *model.monotone)
    named = dict.fromkeys((*inputs_named, *model.slices, *model.baseline))
    if lacking := [name for name in named if name not in known]:
        message = f"The model names {', '.join(lacking)}, which rows do not have."
        remedy = "Inputs, slices and baseline are columns of `spine`, `on_demand`, feature tables."
        raise UserError(message, remedy)
    if lost := [name for name in extra if name not in known]:
        message = f"No table has {', '.join(lost)} any more, which a version takes as an input."
        raise UserError(message, "Keep a feature until a champion without it is in place.")
    wanted = rows.select(*dict.fromkeys(kept)).sort(PREDICTION_TIME, *model.keys)
    found = lakehouse.collect(wanted)
    if found.is_empty() and (nulls := lakehouse.rows(given) - lakehouse.rows(labels)):
        message = f"There is no labelled row; {nulls:,} labels {model.target.label} are null."
        raise UserError(message, "Correct `labels` of the problem, or the source that it reads.")
    return found


def require_row_by_row(
    lakehouse: Lakehouse, problem: Problem, rows: pl.DataFrame, as_of: datetime, versions: Versions
) -> None:
    """Refuse inputs that depend on which other rows are computed with them.

    Such inputs would differ between training, where all rows are seen, and scoring: a mean over
    all rows, a rank, the row before. Some rows from all over the training set are computed again
    alone and in another order.

    Args:
        lakehouse: Tables of the environment.
        problem: Its spine, feature tables and `on_demand`.
        rows: A training set.
        as_of: The as-of of the training set.
        versions: Delta version of each table that it was read from.

    Raises:
        UserError: Names the inputs.
    """
    model = problem.model
    by = [*model.keys, PREDICTION_TIME]
    some = rows.gather_every(max(1, rows.height // _SAMPLE_ROWS)).reverse()
    frames = prepared(lakehouse, problem, as_of, versions)
    asked = lakehouse.frame(some.select(by))
    spine = spine_of(problem, frames).join(asked, on=by, how="semi").sort(by, descending=True)
    wanted = dict.fromkeys([*by, *model.features])  # a key may be an input
    features = available(lakehouse, problem, as_of, versions)
    inputs = with_features(lakehouse, problem, spine, features).select(*wanted)
    alone = lakehouse.collect(inputs).sort(by)
    together = some.sort(by)
    moved = [name for name in model.features if not alone[name].equals(together[name])]
    if moved:
        message = f"{', '.join(moved)}: other values when a row is computed among fewer rows."
        remedy = "Compute an input from its own row; what needs others belongs in a feature table."
        raise UserError(message, remedy)
