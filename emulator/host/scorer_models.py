"""What a scorer serves: an MLflow model or a scoring script. Part of `scorer.py`.

Standard library only until a model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035  (older Pythons)

if TYPE_CHECKING:
    from typing import Protocol

    from amlocal.emulator.host.scorer_images import ImageModel, own_model
    from amlocal.emulator.host.scorer_mlflow import MlflowModel
    from amlocal.emulator.host.scorer_requests import Answer, Request
    from amlocal.emulator.host.scorer_scripts import ScriptModel

    class Model(Protocol):
        """A loaded model; `score` may be called from several threads."""

        def score(self, request: Request) -> Answer:
            """Raises BadInput; all else is a failure of the model's code."""

        def swagger(self, version: str, *, title: str, base: str) -> dict[str, Any]:
            """The OpenAPI document; `version` is one of `scorer_swagger.VERSIONS`."""

        def close(self) -> None:
            """Called once, after the last answer."""

else:
    from scorer_images import ImageModel, own_model
    from scorer_mlflow import MlflowModel
    from scorer_scripts import ScriptModel


def load_model(config: dict[str, Any], log: Callable[[str], None]) -> Model:
    """The model that CONFIG names, ready for requests. Raises whatever its files or code raise."""
    kind = config["kind"]
    if kind == "script":
        return ScriptModel(config, log)
    if kind != "mlflow":
        raise ValueError(f"unknown kind of model {kind!r}")
    mlmodel = own_model(config)
    if mlmodel is not None:
        return ImageModel(config, mlmodel, log)
    return MlflowModel(config, log)
