"""Feature tables as tables of a database, each entity's newest row, for whoever serves online."""

from __future__ import annotations

from databricks.bundles.core import Bundle, Resources
from databricks.bundles.synced_database_tables import SyncedDatabaseTable

from {{cookiecutter.package_name}}.core.contract import AVAILABLE_AT
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store.tables import features

_SCHEMA = "${var.catalog}.${var.schema}"


def load_resources(bundle: Bundle) -> Resources:
    """A synchronized table for each feature table that has entities."""
    resources = Resources()
    for declared in PROBLEM.feature_tables:
        name = features(declared).name
        table = SyncedDatabaseTable.from_dict(
            {
                "name": f"{_SCHEMA}.online_{name}",
                "database_instance_name": "${var.database}",
                "logical_database_name": "${var.schema}",
                "spec": {
                    "source_table_full_name": f"{_SCHEMA}.{name}",
                    "primary_key_columns": list(declared.keys),
                    "timeseries_key": AVAILABLE_AT,
                    "scheduling_policy": "SNAPSHOT",
                    "create_database_objects_if_missing": True,
                    "new_pipeline_spec": {
                        "storage_catalog": "${var.catalog}",
                        "storage_schema": "${var.schema}",
                    },
                },
            }
        )
        if declared.keys:
            resources.add_synced_database_table(name, table)
    return resources
