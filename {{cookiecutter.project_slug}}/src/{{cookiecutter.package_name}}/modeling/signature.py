"""Types of a version's inputs and outputs, as MLflow records them."""

from __future__ import annotations

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from ..core.contract import Model


def signature(model: Model) -> ModelSignature:
    """Inputs by name, texts or numbers; one score, or a named one for each class."""
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string if name in model.categorical else DataType.double, name)
        for name in model.features
    ]
    names = model.target.scores
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.double, name) for name in names]
    if len(names) == 1:
        outputs = [ColSpec(DataType.double)]
    return ModelSignature(Schema(inputs), Schema(outputs))
