"""A registry that refuses what Unity Catalog refuses, on a store of this machine.

Where a rule stands in MLflow's client of it, the method is named:
`mlflow.store._unity_catalog.registry.rest_store.UcModelRegistryStore`, shortened to *client*.
"""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, ModelVersionSearch, ModelVersionTag
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

MOST_TAGS = 50
MOST_CHARACTERS = 1_000
MOST_IN_KEY = 255
NOT_IN_KEYS = set(".,-=/:")
PAGE = 2
LOCATION = "/managed-by-the-catalog"


class UnityCatalog(MlflowClient):
    """MLflow's client with a catalog behind it."""

    def create_experiment(self, name: str, *given: Any, **named: Any) -> str:
        # MLflow, issue 8269
        if not name.startswith("/"):
            raise MlflowException(f"Got an invalid experiment name '{name}': no absolute path")
        return super().create_experiment(name, *given, **named)

    def create_registered_model(self, name: str, *given: Any, **named: Any) -> Any:
        # client.create_registered_model: names are catalog.schema.model
        if len(name.split(".")) != 3:
            raise MlflowException(f"Model name '{name}' does not have three levels")
        return super().create_registered_model(name, *given, **named)

    def search_registered_models(self, filter_string: Any = None, *given: Any, **named: Any) -> Any:
        # client.search_registered_models: "filter_string is unsupported"
        if filter_string or named.get("order_by"):
            raise MlflowException("Argument 'filter_string' is unsupported")
        return super().search_registered_models(None, *given, **named)

    def search_model_versions(
        self,
        filter_string: Any = None,
        max_results: Any = PAGE,
        order_by: Any = None,
        page_token: Any = None,
    ) -> Any:
        # client.search_model_versions: one condition on name or run_id, no order
        subject = str(filter_string).partition("=")[0].strip()
        several = " and " in str(filter_string).lower()
        if several or order_by or subject not in {"name", "run_id"}:
            raise MlflowException(f"Unsupported filter: {filter_string}")
        found = super().search_model_versions(filter_string, PAGE, None, page_token)
        # mlflow.entities.model_registry.ModelVersionSearch: hits raise when asked for tags
        hits = [ModelVersionSearch(**fields(item)) for item in found]  # type: ignore[no-untyped-call]
        return PagedList(hits, found.token)

    def get_model_version(self, name: str, version: Any) -> ModelVersion:
        # client._get_artifact_repo: files are read with credentials lent for a name and version
        found = fields(super().get_model_version(name, version))
        return ModelVersion(**found | {"source": f"{LOCATION}/{version}"})

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: Any = None,
        tags: Any = None,
        *given: Any,
        **named: Any,
    ) -> Any:
        # client._validate_model_signature: inputs and outputs both
        signature = mlflow.models.get_model_info(source).signature
        if signature is None or signature.outputs is None:
            raise MlflowException("All models must be logged with a signature of both sides")
        refuse_tags(dict(tags or {}))
        return super().create_model_version(name, source, run_id, tags, *given, **named)

    def set_model_version_tag(
        self, name: str, version: Any = None, key: Any = None, value: Any = None, stage: Any = None
    ) -> None:
        held = super().get_model_version(name, version).tags
        refuse_tags({**held, key: value})
        super().set_model_version_tag(name, version, key, value)

    def set_registered_model_tag(self, name: str, key: str, value: Any) -> None:
        refuse_tags({**self.get_registered_model(name).tags, key: value})
        super().set_registered_model_tag(name, key, value)

    def transition_model_version_stage(self, *given: Any, **named: Any) -> Any:
        # client.transition_model_version_stage: "unsupported"
        raise MlflowException("Method 'transition_model_version_stage' is unsupported")

    def get_latest_versions(self, *given: Any, **named: Any) -> Any:
        # client.get_latest_versions: "unsupported"
        raise MlflowException("Method 'get_latest_versions' is unsupported")


def refuse_tags(tags: dict[str, str]) -> None:
    """Constraints of https://docs.databricks.com/aws/en/database-objects/tags."""
    if len(tags) > MOST_TAGS:
        raise MlflowException(f"{len(tags)} tags are more than {MOST_TAGS}")
    for key, value in tags.items():
        if NOT_IN_KEYS & set(key) or len(key) > MOST_IN_KEY:
            raise MlflowException(f"Tag key '{key}' is not allowed")
        if len(str(value)) > MOST_CHARACTERS:
            raise MlflowException(f"The value of tag '{key}' is too long")


def fields(version: ModelVersion) -> dict[str, Any]:
    """A version's own fields, its tags as the constructor takes them."""
    tags = [ModelVersionTag(*tag) for tag in version.tags.items()]  # type: ignore[no-untyped-call]
    return {**dict(version), "tags": tags}
