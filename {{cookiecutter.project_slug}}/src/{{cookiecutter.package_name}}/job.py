"""What tasks of a Databricks job call: the command line, told what the bundle has deployed.

A task's first parameter is a text of lines NAME=VALUE; the verb and its options follow. The names:

- `project`, the folder that holds conf/; `data`, a folder of this machine; `commit`;
- `schema`, where `tables` makes the tables known;
- `secrets`, a scope whose secrets become environment variables of the same names;
- any other is a setting of conf/, as `lakehouse.root`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import cli
from .core.console import complain, say
from .core.errors import UserError
from .core.project import COMMIT_VARIABLE, DATA_VARIABLE, PACKAGE, PROJECT_VARIABLE
from .core.settings import ENV_PREFIX

if TYPE_CHECKING:
    from .context import Context

SCHEMA_VARIABLE = "CATALOG_SCHEMA"
APPROVAL_TAG = "approval"  # as the task is called: so Unity Catalog names the tag that it sets
_APPROVED = "approved"
_APPROVER = "Unity Catalog"
_VARIABLES = {
    "project": PROJECT_VARIABLE,
    "data": DATA_VARIABLE,
    "commit": COMMIT_VARIABLE,
    "schema": SCHEMA_VARIABLE,
}

Version = Annotated[str, typer.Option("--version", help="Model version.")]
Who = Annotated[str, typer.Option("--who", help="Who approves here, instead of in the catalog.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]
Job = Annotated[str, typer.Option("--job", help="Id of the job.")]
Schema = Annotated[
    str | None,
    typer.Option("--schema", help="As catalog.schema. Default: the one that was deployed."),
]


@cli.app.command()
def tables(env: cli.Env = "dev", schema: Schema = None) -> None:
    """Make the tables known in a schema of Unity Catalog, where SQL finds them."""
    schema = schema or os.environ.get(SCHEMA_VARIABLE)
    if not schema:
        message = "No schema is named."
        raise UserError(message, "Name it: --schema catalog.schema.")
    from pyspark.sql import SparkSession

    from .store.tables import every

    context = cli.context_of(env)
    lakehouse = context.lakehouse
    session = SparkSession.builder.getOrCreate()
    there = [
        table.name
        for table in every(context.problem)
        if lakehouse.owns(table.name) and lakehouse.version(table) is not None
    ]
    for name in there:
        place = lakehouse.place(name)
        session.sql(f"CREATE TABLE IF NOT EXISTS {schema}.{name} USING DELTA LOCATION '{place}'")
    say(f"[green]✓[/] {len(there)} tables are known in {schema}.")


@cli.app.command()
def trigger(job: Job, env: cli.Env = "dev") -> None:
    """Have Unity Catalog start a job for each version of the model that is registered from now on.

    It calls it a deployment job, and gives it the parameters `model_name` and `model_version`:
    https://docs.databricks.com/aws/en/mlflow/deployment-job
    """
    context = cli.context_of(env)
    client, name = context.registry.client, context.settings.mlflow.model
    model = client.get_registered_model(name)
    if model.deployment_job_id != job:
        client.update_registered_model(name, model.description, deployment_job_id=job)
    say(f"[green]✓[/] Each new version of {name} starts job {job}.")


@cli.app.command()
def approval(version: Version, env: cli.Env = "dev", who: Who = "", why: Why = "") -> None:
    """Promote a version that a person has approved, in Unity Catalog or as `--who`; else fail."""
    from . import flows
    from .tracking.registry import CHAMPION

    context = cli.context_of(env)
    if context.registry.aliased(CHAMPION) == version:
        say(f"[green]✓[/] Version {version} is the champion: nobody need approve it.")
        return
    if not who:
        who, why = _APPROVER, _approved(context, version)
    flows.decide(context, who, why, approve=True, version=version)
    say(f"[green]✓[/] Version {version} is the champion.")


def _approved(context: Context, version: str) -> str:
    """Why a version counts as approved.

    Raises:
        UserError: It does not.
    """
    decision = context.registry.version(version).tags.get(APPROVAL_TAG, "")
    if decision.lower() != _APPROVED:
        message = f"Version {version} waits for a person."
        remedy = "Approve it on its page in Unity Catalog, which starts this task again."
        raise UserError(message, remedy)
    return f"the tag {APPROVAL_TAG} of version {version} says {decision}"


def main() -> None:
    """Run the verb of a task; what a user can correct ends in one message and exit code 1."""
    try:
        deployed, *verb = sys.argv[1:] or [""]
        os.environ.update(variables(deployed))
    except UserError as error:
        complain(str(error))
        sys.exit(1)
    sys.argv[1:] = verb
    cli.main()


def variables(deployed: str) -> dict[str, str]:
    """Environment variables that tell the command line what was deployed.

    Args:
        deployed: Lines NAME=VALUE.

    Raises:
        UserError: A line is none, or the scope of secrets cannot be read.
    """
    told = {DATA_VARIABLE: str(Path(tempfile.gettempdir(), PACKAGE))}
    for line in deployed.splitlines():
        name, is_there, value = line.partition("=")
        if not is_there:
            message = f"'{line}', in a task's first parameter, is not NAME=VALUE."
            raise UserError(message, "Correct `deployed` in resources/jobs.yml, and deploy again.")
        if name == "secrets":
            told.update(secrets(value))
        else:
            told[_VARIABLES.get(name) or _variable_of(name)] = value
    return told


def secrets(scope: str) -> Mapping[str, str]:
    """All secrets of a scope by name.

    Raises:
        UserError: There is no such scope, or it may not be read.
    """
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.errors.base import DatabricksError

    try:
        service = WorkspaceClient().secrets
        names = [str(secret.key) for secret in service.list_secrets(scope)]
        held = {name: service.get_secret(scope, name).value or "" for name in names}
    except (DatabricksError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"The secret scope {scope} cannot be read: {reason}"
        raise UserError(message, "Whoever runs the job needs READ on it.") from None
    return {name: b64decode(value).decode() for name, value in held.items()}


def _variable_of(setting: str) -> str:
    """The environment variable of a setting, such as `lakehouse.root`."""
    return ENV_PREFIX + setting.upper().replace(".", "__")
