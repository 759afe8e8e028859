"""A version behind MLServer, in its own process, as cheap as it can be made.

A row's values come in the model's order, in a tensor of one dimension, and nothing is looked up,
checked or logged. It predicts by the same function as the project's server.
"""

from pathlib import Path

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput, TensorData

from benchmarks.predictor import predictor


class Version(MLModel):  # type: ignore[misc]
    """An estimator as MLServer wants it."""

    async def load(self) -> bool:
        """Load the version's own code."""
        self._predict = predictor(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Its scores."""
        scores = list(self._predict(list(payload.inputs[0].data)))
        output = ResponseOutput(
            name="scores", shape=[len(scores)], datatype="FP64", data=TensorData(root=scores)
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
