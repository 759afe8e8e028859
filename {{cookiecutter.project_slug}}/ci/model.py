"""Two models trained the same way, by the code of two branches: `nox -s ci -- model ...`.

`model score FILE` trains in the environment `test` on the first weeks of the data and writes the
holdout's rows with their predictions. `model compare FOLDER` compares `head.parquet` with
`base.parquet` there, writes `comparison.json` beside them, and fails where head is surely worse.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from {{cookiecutter.package_name}}.context import Context, open_context
from {{cookiecutter.package_name}}.core.contract import PREDICTION_TIME, Model
from {{cookiecutter.package_name}}.core.errors import UserError
from {{cookiecutter.package_name}}.data.ingest import ingest
from {{cookiecutter.package_name}}.data.prepare import prepare
from {{cookiecutter.package_name}}.features.build import build_features
from {{cookiecutter.package_name}}.modeling.evaluation import compare
from {{cookiecutter.package_name}}.store.point_in_time import training_set
from {{cookiecutter.package_name}}.training.pipeline import train
from {{cookiecutter.package_name}}.training.split import windows_until

from .errors import CiError, append_to, run

ENVIRONMENT = "test"
PREDICTED = "prediction"
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
            case ["compare", folder]:
                judge_files(context, Path(folder))
            case _:
                raise CiError("Usage: model score FILE | model compare FOLDER")
    except UserError as error:
        raise CiError(" ".join(str(error).split())) from None


def score(context: Context, file: Path) -> None:
    """Run the loop up to a model and write its holdout, scored."""
    problem, budget = context.problem, context.settings.training
    days = budget.train_days + budget.validation_days + budget.holdout_days + _FIRST_DAYS
    as_of = problem.begins + timedelta(days=days)
    ingest(context, as_of)
    prepare(context, as_of)
    build_features(context, as_of)
    predictor = context.registry.load(train(context, as_of).version)
    window = windows_until(as_of, budget)[-1]
    rows = window.of(training_set(context.lakehouse, problem, window.start, as_of, {}))
    model = problem.model
    columns = dict.fromkeys((*model.keys, PREDICTION_TIME, *model.slices, model.target.label))
    file.parent.mkdir(parents=True, exist_ok=True)
    rows.select(*columns).with_columns(pl.Series(PREDICTED, predictor.predict(rows))).write_parquet(
        file
    )
    print(
        f"{rows.height:,} rows of {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d} scored: {file}"
    )


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
    append_to("GITHUB_STEP_SUMMARY", comparison["sentence"])
    if comparison["verdict"] == "worse":
        raise CiError(comparison["sentence"])


def judge(head: pl.DataFrame, base: pl.DataFrame, model: Model, margin: float) -> dict[str, Any]:
    """Measure both on the rows that both scored; see `compare` for the intervals.

    A merge is stopped only by a loss that is both sure and larger than the margin: the sample is
    small, and the stricter question, whether a version is surely not worse, is asked before each
    promotion.

    Args:
        head: Rows as `score` writes them, by the code of the merge request; its labels count.
        base: The same by the code of the target branch.
        model: Keys, metrics and slices.
        margin: Share of the target branch's metric that may be lost.

    Returns:
        verdict (better, alike, worse), sentence, method, rows, and per metric head, base and gain,
        each as value, lower and upper bound.

    Raises:
        CiError: They have no row in common.
    """
    keys = [*model.keys, PREDICTION_TIME]
    other = base.select(*keys, pl.col(PREDICTED).alias("_base"))
    rows = head.join(other, on=keys, how="inner", maintain_order="left")
    if rows.is_empty():
        raise CiError("The branches scored no row in common: keys or prediction times changed.")
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
    if upper < 0 and gain < -margin * abs(first["base"][0]):
        verdict, says = "worse", "The model is worse than that of the target branch"
    elif lower > 0:
        verdict, says = "better", "The model is better than that of the target branch"
    else:
        verdict, says = (
            "alike",
            "As far as this sample can tell, the model is as good as that of the target branch",
        )
    values = f"{first['metric']} {first['head'][0]:.4f} against {first['base'][0]:.4f}"
    return {
        "verdict": verdict,
        "sentence": (
            f"{says}: {values} on {rows.height:,} rows "
            f"(gain {gain:.4f}, {lower:.4f} to {upper:.4f})."
        ),
        "method": (
            f"Both trained in this run on the same sample, judged on {rows.height:,} later rows; "
            "95 % intervals by leaving out whole days. "
            f"Worse means: surely, and by more than {margin:.0%} of the target branch's value."
        ),
        "rows": rows.height,
        "metrics": metrics,
    }


if __name__ == "__main__":
    run(main)
