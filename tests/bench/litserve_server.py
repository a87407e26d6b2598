"""`python litserve_server.py MODEL PORT`: the same model behind LitServe, batched, as its guide shows."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any


def main(folder: str, port: int) -> None:
    import litserve

    class Classifier(litserve.LitAPI):
        def setup(self, device: str) -> None:
            import json

            from amlocal.trainers.tasks.classification_scoring import Predictor

            description = json.loads((Path(folder) / "model.json").read_text())
            self.predictor = Predictor(Path(folder), description)

        def decode_request(self, request: dict[str, Any]) -> bytes:
            return base64.b64decode(request["image"])

        def predict(self, images: list[bytes]) -> list[dict[str, Any]]:
            return self.predictor.predict(images)

        def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
            return output

    api = Classifier(max_batch_size=32, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", timeout=60).run(
        host="127.0.0.1", port=port, generate_client_file=False, log_level="error"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
