"""A version behind MLServer, in its own process, as cheap as it can be made.

A row's values come in the model's order, in a tensor of one dimension, and nothing is looked up,
checked or logged. It predicts by the same function as the project's server.
"""

from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput, TensorData

from {{cookiecutter.package_name}}.core.contract import SingleRow
from {{cookiecutter.package_name}}.modeling import stored


class Version(MLModel):  # type: ignore[misc]
    """An estimator as MLServer wants it."""

    async def load(self) -> bool:
        """Load the version's own code."""
        estimator = stored.read(Path(self.settings.parameters.uri), "served_by_mlserver")
        if not isinstance(estimator, SingleRow):
            raise SystemExit("The estimator does not predict single rows.")
        self._predict = estimator.predictor()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Its scores."""
        scores = list(self._predict(list(payload.inputs[0].data)))
        output = ResponseOutput(
            name="scores", shape=[len(scores)], datatype="FP64", data=TensorData(root=scores)
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
