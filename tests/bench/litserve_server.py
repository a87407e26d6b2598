"""`python litserve_server.py MODEL PORT`: the same model behind LitServe, batched, as its guide shows."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import litserve


class Classifier(litserve.LitAPI):
    """At the module's level, because LitServe pickles it for its workers."""

    def setup(self, device: str) -> None:
        from amlocal.trainers.tasks.classification_scoring import Predictor

        folder = Path(sys.argv[1])
        self.predictor = Predictor(folder, json.loads((folder / "model.json").read_text()))

    # Without a type, since LitServe would make a query parameter of it.
    def decode_request(self, request) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
        return self.predictor.predict(images)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", timeout=60).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error"
    )
