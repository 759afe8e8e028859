"""The model of a change against an opponent, on the same rows: `nox -s ci -- model ...`.

`model score FILE` trains in the environment `test` on the first weeks of the data and writes the
holdout's rows with their predictions; what the code of the target branch writes is one opponent.
`model champion ENV FILE` writes what the registered champion of an environment says of these rows:
another one. `model compare FOLDER` compares `head.parquet` with `base.parquet` there, writes
`comparison.json` beside them, and fails where head is surely worse.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import PREDICTION_TIME, Estimator, Model
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.modeling.evaluation import compare
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.tracking.registry import CHAMPION
from {{cookiecutter.package_name}}.training.pipeline import train
from {{cookiecutter.package_name}}.training.split import windows_until

from .errors import CiError, append_to, run
from .forge import SUMMARY

ENVIRONMENT = "test"
PREDICTED = "prediction"
OPPONENT = "opponent"
BRANCH = "target branch"
USAGE = "Usage: model score FILE | model champion ENV FILE | model compare FOLDER"
# Before the windows: what the longest feature window looks back.
_FIRST_DAYS = 10


def main(arguments: list[str]) -> None:
    """Score or compare.

    Raises:
        CiError: Arguments, or what the project itself reports.
    """
    try:
        context = open_context(ENVIRONMENT)
        match arguments:
            case ["score", file]:
                score(context, Path(file))
            case ["champion", env, file]:
                score_champion(context, open_context(env), Path(file))
            case ["compare", folder]:
                judge_files(context, Path(folder))
            case _:
                raise CiError(USAGE)
    except UserError as error:
        raise CiError(" ".join(str(error).split())) from None


def score(context: Context, file: Path) -> None:
    """Run the loop up to a model and write its holdout, scored."""
    as_of = _prepared(context)
    estimator = context.registry.load(train(context, as_of).version)
    _write(context, _holdout(context, as_of), estimator, BRANCH, file)


def score_champion(context: Context, theirs: Context, file: Path) -> None:
    """Write those of the same rows that are later than all that the champion has learned from.

    Raises:
        CiError: There is no champion, or it has learned from all of these rows.
    """
    env = theirs.settings.env
    version = theirs.registry.aliased(CHAMPION)
    if version is None:
        raise CiError(f"{env} has no champion yet: compare with the target branch.")
    learned = datetime.fromisoformat(theirs.registry.version(version).tags["holdout_start"])
    rows = _holdout(context, _prepared(context)).filter(pl.col(PREDICTION_TIME) >= learned)
    if rows.is_empty():
        raise CiError(
            f"The champion of {env} has learned until {learned:%Y-%m-%d}, and none of the rows is "
            "later: give the environment `test` later data, or compare with the target branch."
        )
    _write(context, rows, theirs.registry.load(version), f"champion of {env}", file)


def _prepared(context: Context) -> datetime:
    """Run the loop up to the features; returns the as-of, when the windows are just filled."""
    budget = context.settings.training
    days = budget.train_days + budget.validation_days + budget.holdout_days + _FIRST_DAYS
    as_of = context.problem.begins + timedelta(days=days)
    ingest(context, as_of)
    prepare(context, as_of)
    build_features(context, as_of)
    return as_of


def _holdout(context: Context, as_of: datetime) -> pl.DataFrame:
    window = windows_until(as_of, context.settings.training)[-1]
    rows = training_set(context.lakehouse, context.problem, window.start, as_of, {})
    return window.of(rows)


def _write(
    context: Context, rows: pl.DataFrame, estimator: Estimator, opponent: str, file: Path
) -> None:
    """Write keys, prediction time, slices, label, prediction, and whose they are."""
    model = context.problem.model
    columns = dict.fromkeys((*model.keys, PREDICTION_TIME, *model.slices, model.target.label))
    predicted = pl.Series(PREDICTED, estimator.predict(rows))
    scored = rows.select(*columns).with_columns(predicted, pl.lit(opponent).alias(OPPONENT))
    file.parent.mkdir(parents=True, exist_ok=True)
    scored.write_parquet(file)
    print(f"{rows.height:,} rows scored: {file}")


def judge_files(context: Context, folder: Path) -> None:
    """Compare head with base, write `comparison.json`, summarise.

    Raises:
        CiError: A file is missing, nothing is to be compared, or head is surely worse.
    """
    try:
        head, base = (pl.read_parquet(folder / f"{name}.parquet") for name in ("head", "base"))
    except OSError as error:
        raise CiError(f"No scores to compare: {error}") from None
    settings = context.settings
    comparison = judge(head, base, context.problem.model, settings.deployment.margin)
    (folder / "comparison.json").write_text(json.dumps(comparison, indent=1), encoding="utf-8")
    append_to(SUMMARY, comparison["sentence"])
    if comparison["verdict"] == "worse":
        raise CiError(comparison["sentence"])


def judge(head: pl.DataFrame, base: pl.DataFrame, model: Model, margin: float) -> dict[str, Any]:
    """Measure both on the rows that both scored; see `compare` for the intervals.

    A merge is stopped only by a loss that is both sure and larger than the margin: the sample is
    small, and the stricter question, whether a version is surely not worse, is asked before each
    promotion.

    Args:
        head: Rows as `score` writes them, by the code of the change; its labels count.
        base: The same of the opponent; where it does not say whose, of the target branch.
        model: Keys, metrics and slices.
        margin: Share of the opponent's metric that may be lost.

    Returns:
        verdict (better, alike, worse), opponent, sentence, method, rows, and per metric head, base
        and gain, each as value, lower and upper bound.

    Raises:
        CiError: They have no row in common.
    """
    keys = [*model.keys, PREDICTION_TIME]
    other = base.select(*keys, pl.col(PREDICTED).alias("_base"))
    rows = head.join(other, on=keys, how="inner", maintain_order="left")
    if rows.is_empty():
        raise CiError(
            "The two scored no row in common: keys or prediction times changed. Compare by hand, "
            "then override this gate with the reason."
        )
    ours, theirs = rows[PREDICTED].to_numpy(), rows["_base"].to_numpy()
    forth = compare(rows, ours, theirs, model).filter(slice="").rows(named=True)
    back = compare(rows, theirs, ours, model).filter(slice="").rows(named=True)
    metrics = [
        {
            "metric": head_row["metric"],
            "head": [head_row[name] for name in ("value", "lower", "upper")],
            "base": [base_row[name] for name in ("value", "lower", "upper")],
            "gain": [head_row[name] for name in ("gain", "gain_lower", "gain_upper")],
        }
        for head_row, base_row in zip(forth, back, strict=True)
    ]
    first = metrics[0]
    gain, lower, upper = first["gain"]
    opponent = str(base[OPPONENT][0]) if OPPONENT in base.columns else BRANCH
    if upper < 0 and gain < -margin * abs(first["base"][0]):
        verdict, says = "worse", "The model is worse than that of the"
    elif lower > 0:
        verdict, says = "better", "The model is better than that of the"
    else:
        verdict = "alike"
        says = "As far as this sample can tell, the model is as good as that of the"
    values = f"{first['metric']} {first['head'][0]:.4f} against {first['base'][0]:.4f}"
    return {
        "verdict": verdict,
        "opponent": opponent,
        "sentence": (
            f"{says} {opponent}: {values} on {rows.height:,} rows "
            f"(gain {gain:.4f}, {lower:.4f} to {upper:.4f})."
        ),
        "method": (
            f"Both judged on the same {rows.height:,} rows, later than all that they learned from; "
            "95 % intervals by leaving out whole days. "
            f"Worse means: surely, and by more than {margin:.0%} of the opponent's value."
        ),
        "rows": rows.height,
        "metrics": metrics,
    }


if __name__ == "__main__":
    run(main)
