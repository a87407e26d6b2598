"""The one error shape of the wire: Azure Resource Manager's error envelope.

Source: Azure REST guidelines, as azure-core's exceptions read it (`{"error": {"code", "message"}}`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class AzureError(Exception):
    """A failure that the client is told about.

    `status` is the HTTP status, `code` Azure's name for the failure (PascalCase), `message` says what is
    wrong, where, and what to do. `target` names the field at fault.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        target: str | None = None,
        details: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.target = target
        self.details = tuple(details)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            error["target"] = self.target
        error["details"] = [dict(detail) for detail in self.details]
        return {"error": error}


def not_found(message: str, *, code: str = "ResourceNotFound", target: str | None = None) -> AzureError:
    """404: the thing named in the path or body does not exist."""
    return AzureError(404, code, message, target=target)


def bad_request(code: str, message: str, *, target: str | None = None) -> AzureError:
    """400: the request is understood and refused."""
    return AzureError(400, code, message, target=target)


def user_error(message: str, *, target: str | None = None) -> AzureError:
    """400 with the code that Azure Machine Learning uses for mistakes in a job's definition."""
    return AzureError(400, "UserError", message, target=target)


def conflict(message: str, *, code: str = "Conflict", target: str | None = None) -> AzureError:
    """409: the request does not fit the present state."""
    return AzureError(409, code, message, target=target)


def not_there_yet(feature: str) -> AzureError:
    """501: a feature of Azure Machine Learning that amlocal does not have yet, named."""
    return AzureError(501, "NotImplemented", f"{feature} is not there yet in amlocal.")


def mlflow_restarting() -> AzureError:
    """503: the MLflow process is not there for the moment; the client may repeat the call."""
    return AzureError(
        503,
        "ServiceUnavailable",
        "The MLflow process is not running; it is being restarted. Repeat the request.",
        headers={"Retry-After": "2"},
    )
