"""What the rows of a window show, in sums: those of batches of rows add up to those of the whole.

So drift is measured wherever the rows are, and only the sums come here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import narwhals as nw
import numpy as np
import polars as pl

from ..core.contract import PREDICTION_TIME, Array, Frame, Schema, polars_schema
from ..modeling.neighbours import Neighbours, steps
from ..modeling.profile import Histogram, Profile, Values, widened
from ..modeling.relations import DIGITS, Relation, products
from ..modeling.split import hashes
from ..store.lakehouse import Lakehouse
from .exact import ADDED_BY, PARTS, Part, added_up, as_floats, counted, listed, totals

OUTSIDE = "outside"  # rows beyond the training's range
NEW = "new"  # rows with values that the training does not know
FULLEST = "fullest"  # rows with the value that most of them have
HASHES = 2**56
"""How many hashes of rows there are."""
_BINS = "bins"
_ROWS = "rows"
_PRODUCTS = "products"
_STEPS = "steps"
_EVERY = ""  # of all columns, or of all items
_VARIED = 0.8  # a column of whose rows more had one value is not held to vary
_SUCCESSIVE = 0.5  # scatter; a column that follows time no better is not held against it
_DEALT = "_dealt"


@dataclass(frozen=True)
class Seen:
    """Sums of a window's rows: by column and what is summed up, one for each item."""

    rows: int
    columns: frozenset[str]
    sums: Mapping[tuple[str, str], Mapping[str, float]]

    def bins(self, name: str, histogram: Histogram) -> Array:
        """Rows by bin of the histogram, shape (bins,); none where there is no such column."""
        return self._array(name, _BINS, histogram.days.shape[1])

    def count(self, name: str, what: str) -> float | None:
        """Rows of a column; None where that was not asked."""
        return self.sums.get((name, what), {}).get(_EVERY)

    def products(self, terms: int) -> Array:
        """As `relations.products`."""
        return self._array(_EVERY, _PRODUCTS, terms * terms).reshape(terms, terms)

    def steps(self) -> Iterator[tuple[str, Array]]:
        """As `neighbours.steps`, of each column that follows time."""
        for name, what in self.sums:
            if what == _STEPS:
                yield name, self._array(name, _STEPS, 5)

    def _array(self, name: str, what: str, size: int) -> Array:
        found = np.zeros(size)
        for item, value in self.sums.get((name, what), {}).items():
            found[int(item)] = value
        return found


def look(lakehouse: Lakehouse, reference: Profile, rows: Frame, keys: Sequence[str]) -> Seen:
    """Sum up what drift asks of rows.

    Args:
        lakehouse: Whose engine computes.
        reference: What they are held against.
        rows: Prediction time and the profile's columns, as far as they are there.
        keys: Columns that tell rows apart.
    """
    there = rows.collect_schema().names()
    asked = {name: _without_days(each) for name, each in reference.items()}
    known = [name for name in reference if name in there]
    wanted = rows.select(*dict.fromkeys([*keys, PREDICTION_TIME, *known]))
    follows = {
        name: each for name, each in _followers(reference) if {name, each.within} <= {None, *known}
    }
    if follows:
        wanted = _with_previous(lakehouse, wanted, follows, keys)
    summing = partial(_sums, reference=asked, follows=list(follows))
    total = totals(lakehouse.map_batches(wanted, summing, PARTS))
    # Which value most rows have is asked by none, and there may be many.
    item = nw.when(nw.col("what") != FULLEST).then(nw.col("item")).otherwise(nw.lit(_EVERY))
    most = total.with_columns(item.alias("item")).group_by(*ADDED_BY).agg(nw.col("sum").max())
    found = as_floats(lakehouse.collect(most))
    counted = found.pop((_EVERY, _ROWS), {_EVERY: 0.0})
    return Seen(int(counted[_EVERY]), frozenset(known), found)


def related(reference: Profile) -> Mapping[str, Relation]:
    """Columns that others foretell."""
    return {name: each.relation for name, each in reference.items() if each.relation}


def with_hash(rows: pl.DataFrame, keys: Sequence[str], name: str) -> pl.DataFrame:
    """Rows with a whole number in [0, 2^56) by their keys, the same everywhere and always."""
    numbers = [int.from_bytes(digest, "big") % HASHES for digest in hashes(rows.select(keys))]
    return rows.with_columns(pl.Series(name, numbers, dtype=pl.Int64))


def _followers(reference: Profile) -> Iterator[tuple[str, Neighbours]]:
    for name, each in reference.items():
        if each.neighbours and each.neighbours.farthest <= _SUCCESSIVE:
            yield name, each.neighbours


def _without_days(histogram: Histogram) -> Histogram:
    """All that a batch of rows is asked by; days are many, and go to every worker."""
    return replace(histogram, days=histogram.days[:0])


def _with_previous(
    lakehouse: Lakehouse, rows: Frame, follows: Mapping[str, Neighbours], keys: Sequence[str]
) -> Frame:
    """Rows with the newest value before theirs, of each column that follows time.

    Rows of one moment follow each other by chance: files have orders of their own.
    """
    schema: Schema = {**rows.collect_schema(), _DEALT: nw.Int64}
    dealt = lakehouse.map_batches(rows, partial(with_hash, keys=keys, name=_DEALT), schema)
    order = [PREDICTION_TIME, _DEALT]
    newest = []
    before = []
    for name, each in follows.items():
        within = [each.within] if each.within else []
        value = nw.col(name).cast(nw.Float64).fill_null(strategy="forward")
        newest.append(value.over(*within, order_by=order).alias(_before(name)))
        before.append(nw.col(_before(name)).shift(1).over(*within, order_by=order))
    return dealt.with_columns(*newest).with_columns(*before)


def _before(name: str) -> str:
    return f"_before_{name}"


def _sums(rows: pl.DataFrame, reference: Profile, follows: Sequence[str]) -> pl.DataFrame:
    """What a batch of rows adds to the sums."""
    found = [counted((_EVERY, _ROWS, _EVERY), rows.height)]
    for name, histogram in reference.items():
        if name in rows.columns:
            found += listed(name, _BINS, histogram.count(rows, name), 0)
            found += _of_values(name, histogram.values, rows[name].drop_nulls())
    if known := related(reference):
        found += listed(_EVERY, _PRODUCTS, products(known, rows).ravel(), -DIGITS)
    for name in follows:
        values, before = (
            rows[each].cast(pl.Float64).fill_null(np.nan).to_numpy()
            for each in (name, _before(name))
        )
        cuts = reference[name].cuts
        center = cuts[len(cuts) // 2] if cuts else 0.0
        for number, summands in enumerate(steps(values, before, center)):
            found += added_up((name, _STEPS, str(number)), summands)
    return pl.DataFrame(found, schema=polars_schema(PARTS), orient="row")


def _of_values(name: str, known: Values, present: pl.Series) -> Iterator[Part]:
    """What the values of a batch of rows tell by themselves."""
    if known.low is not None and known.high is not None:
        low, high = widened(known.low, known.high)
        outside = ~present.cast(pl.Float64).is_between(low, high)
        yield counted((name, OUTSIDE, _EVERY), int(outside.sum()))
    if known.few:
        is_new = ~present.cast(pl.Float64).is_in(list(known.few))
        yield counted((name, NEW, _EVERY), int(is_new.sum()))
    if known.fullest < _VARIED:
        times = present.value_counts(name=_ROWS)
        for value, count in zip(times[name].cast(pl.String), times[_ROWS], strict=True):
            yield counted((name, FULLEST, value), count)
