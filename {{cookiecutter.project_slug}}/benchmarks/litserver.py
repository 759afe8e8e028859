"""A version behind LitServe: `python -m benchmarks.litserver FOLDER PORT`.

As cheap as it can be made: a row's values come in the model's order, and nothing is looked up,
checked or logged. It predicts by the same function as the project's server.
"""

import sys
from pathlib import Path
from typing import Any

import litserve
from starlette.requests import Request

from benchmarks.predictor import predictor


class Version(litserve.LitAPI):  # type: ignore[misc]
    """An estimator as LitServe wants it."""

    def __init__(self, folder: Path) -> None:
        """Nothing is loaded yet."""
        super().__init__()
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load the version's own code."""
        self._predict = predictor(self._folder)

    def decode_request(self, request: Request) -> Any:
        """A row; the type makes LitServe hand over the body's JSON."""
        return request["row"]

    def predict(self, row: Any) -> Any:
        """Its scores."""
        return self._predict(row)

    def encode_response(self, scores: Any) -> Any:
        """What is answered."""
        return {"scores": list(scores)}


def main() -> None:
    """Serve until it is ended."""
    folder, port = sys.argv[1:]
    server = litserve.LitServer(Version(Path(folder)), accelerator="cpu", workers_per_device=1)
    server.run("127.0.0.1", int(port), 1, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    main()
