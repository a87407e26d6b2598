"""What the router answers: errors in Azure's shape, and the answers of scorers as Azure shows them."""

from __future__ import annotations

import json

import httpx
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amlocal.emulator.http.errors import AzureError

DEPLOYMENT_HEADER = "azureml-model-deployment"
MODEL_STATUS_HEADER = "ms-azureml-model-error-statuscode"
MODEL_REASON_HEADER = "ms-azureml-model-error-reason"
# How much of a refused body is still read, so that the client gets to see the answer.
DRAIN_BODY = 256 * 1024 * 1024


class Refusal(Response):
    """An answer sent before the body was read; then throws away what the client still sends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = DRAIN_BODY
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def pass_on(answer: httpx.Response, deployment: str) -> Response:
    """The scorer's answer as Azure shows it: 424 when the model's code failed; 400 for bad input."""
    headers = {DEPLOYMENT_HEADER: deployment}
    status = answer.status_code
    if MODEL_STATUS_HEADER in answer.headers:
        status = 424
        for name in (MODEL_STATUS_HEADER, MODEL_REASON_HEADER):
            headers[name] = answer.headers.get(name, "")
    elif status >= 500:
        status = 503
    kind = answer.headers.get("content-type", "application/json")
    return Response(answer.content, status, headers, media_type=kind)


def unavailable(message: str) -> AzureError:
    return AzureError(503, "ServiceUnavailable", message, headers={"Retry-After": "1"})


def render(error: AzureError, *, body_read: bool = False) -> Response:
    kind = Response if body_read else Refusal
    return kind(json.dumps(error.body()), error.status, error.headers, media_type="application/json")
