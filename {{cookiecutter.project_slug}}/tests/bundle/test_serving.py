"""The bundle of what looks at production: against its schema, and against the problem."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from databricks.bundles.alerts import Alert
from databricks.bundles.core import Bundle
from databricks.bundles.dashboards import Dashboard
from databricks.bundles.model_serving_endpoints import ModelServingEndpoint
from databricks.bundles.quality_monitors import QualityMonitor
from databricks.bundles.synced_database_tables import SyncedDatabaseTable

from {{cookiecutter.package_name}}.core.contract import PREDICTION
from {{cookiecutter.package_name}}.problem import PROBLEM
from {{cookiecutter.package_name}}.store import tables

from tests.bundle.reading import ROOT, TARGETS, read

FOLDER = ROOT / "serving"
CLASSES: Mapping[str, type[Any]] = {
    "alerts": Alert,
    "dashboards": Dashboard,
    "model_serving_endpoints": ModelServingEndpoint,
    "quality_monitors": QualityMonitor,
    "synced_database_tables": SyncedDatabaseTable,
}
SYNCED = "synced_database_tables"


def serving(target: str, **given: Any) -> dict[str, Any]:
    load_resources = runpy.run_path(str(FOLDER / "online.py"))["load_resources"]
    added = load_resources(Bundle(target=target)).synced_database_tables
    more = {SYNCED: {name: table.as_dict() for name, table in added.items()}}
    filled = read(target, FOLDER, more, **{"champion": "3", "warehouse": "w", **given})
    resources: dict[str, Any] = filled["resources"]
    return resources


def columns(name: str) -> set[str]:
    (found,) = (table for table in tables.every(PROBLEM) if table.name == name)
    return set(found.schema)


@pytest.mark.parametrize("target", TARGETS)
def test_the_schema_knows_every_field_and_value(target: str) -> None:
    found = serving(target)
    assert found.keys() == CLASSES.keys()
    for kind, named in found.items():
        assert all(CLASSES[kind].from_dict(fields) for fields in named.values())


@pytest.mark.parametrize("target", TARGETS)
def test_it_looks_where_the_other_bundle_writes(target: str) -> None:
    schema = read(target)["resources"]["schemas"]["project"]
    place = f"{schema['catalog_name']}.{schema['name']}"
    found = serving(target)
    (monitor,) = found["quality_monitors"].values()
    assert monitor["table_name"] == f"{place}.inference_log"
    model = read(target)["resources"]["registered_models"]["model"]
    (endpoint,) = found["model_serving_endpoints"].values()
    for served in endpoint["config"]["served_entities"]:
        assert target == "dev" or served["entity_name"] == f"{place}.{model['name']}"
        assert served["entity_version"] == "3"
    assert all(place in alert["query_text"] for alert in found["alerts"].values())


def test_all_requests_are_answered_by_somebody() -> None:
    given = {"challenger": "4", "champion_percent": 90, "challenger_percent": 10}
    (endpoint,) = serving("prod", **given)["model_serving_endpoints"].values()
    served, traffic = (endpoint["config"][key] for key in ("served_entities", "traffic_config"))
    routes = traffic["routes"]
    assert {route["served_entity_name"]: route["traffic_percentage"] for route in routes} == {
        "champion": 90,
        "challenger": 10,
    }
    assert {entity["name"]: entity["entity_version"] for entity in served} == {
        "champion": "3",
        "challenger": "4",
    }


def test_the_monitor_watches_what_the_problem_predicts() -> None:
    (monitor,) = serving("prod")["quality_monitors"].values()
    watched = monitor["inference_log"]
    named = {watched[key] for key in ("timestamp_col", "model_id_col", "prediction_col")}
    assert named <= columns("inference_log")
    is_class = PREDICTION not in PROBLEM.model.target.scores
    wanted = "CLASSIFICATION" if is_class else "REGRESSION"
    assert watched["problem_type"] == f"PROBLEM_TYPE_{wanted}"


def test_every_feature_table_with_entities_is_synchronized_by_its_newest_rows() -> None:
    declared = {f"features_{item.name}": item for item in PROBLEM.feature_tables if item.keys}
    synced = serving("prod")[SYNCED]
    assert synced.keys() == declared.keys()
    for name, table in synced.items():
        spec = table["spec"]
        assert spec["source_table_full_name"].endswith(f".{name}")
        assert spec["primary_key_columns"] == list(declared[name].keys)
        assert {*spec["primary_key_columns"], spec["timeseries_key"]} <= columns(name)


def widgets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each widget of the dashboard with its query."""
    (dashboard,) = serving("prod")["dashboards"].values()
    page = json.loads((FOLDER / dashboard["file_path"]).read_text(encoding="utf-8"))
    for placed in (item for shown in page["pages"] for item in shown["layout"]):
        widget = placed["widget"]
        (query,) = widget["queries"]
        (dataset,) = (
            found for found in page["datasets"] if found["name"] == query["query"]["datasetName"]
        )
        yield widget, {"fields": query["query"]["fields"], "sql": "".join(dataset["queryLines"])}


def test_widgets_show_fields_of_their_queries() -> None:
    for widget, asked in widgets():
        fields = {field["name"] for field in asked["fields"]}
        shown = {part["fieldName"] for part in widget["spec"]["encodings"].values()}
        assert shown <= fields
        assert all(f" AS {name}" in asked["sql"] or name == "window_end" for name in fields)
