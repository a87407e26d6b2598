"""What the router answers: errors in Azure's shape, and the answers of scorers as Azure shows them."""

from __future__ import annotations

import asyncio
import http
import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amlocal.emulator.endpoints.scorer_client import ScorerAnswer
from amlocal.emulator.http.errors import AzureError

DEPLOYMENT_HEADER = "azureml-model-deployment"
MODEL_STATUS_HEADER = "ms-azureml-model-error-statuscode"
MODEL_REASON_HEADER = "ms-azureml-model-error-reason"
# How much of a refused body is still read, and for how long, so that the client gets to see the answer.
DRAIN_BODY = 256 * 1024 * 1024
DRAIN_SECONDS = 30.0
# What is the router's own to say, or holds for one connection only. Cookies and transport security would hold
# for the control plane, too: to a browser all of localhost is one host.
_NOT_PASSED_ON = {
    *b"connection content-length date keep-alive server set-cookie strict-transport-security te".split(),
    *b"trailer transfer-encoding upgrade x-request-id".split(),
    *(name.encode() for name in (DEPLOYMENT_HEADER, MODEL_STATUS_HEADER, MODEL_REASON_HEADER)),
}


class Refusal(Response):
    """An answer sent before the body was read; then throws away what the client still sends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = DRAIN_BODY
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        break
        except TimeoutError:
            left = 0
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Passed(Response):
    """A scorer's answer, its body in the pieces in which it came."""

    def __init__(self, status: int, answer: ScorerAnswer) -> None:
        super().__init__(status_code=status)
        self._pieces = answer.body
        headers = [pair for pair in answer.headers if pair[0] not in _NOT_PASSED_ON]
        size = sum(len(piece) for piece in answer.body)
        self.raw_headers = [*headers, (b"content-length", str(size).encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def model_status(answer: ScorerAnswer) -> int:
    """The status that the model's container chose: the one in its header, else the answer's own."""
    given = (answer.header(MODEL_STATUS_HEADER.encode()) or b"").decode("latin-1")
    return int(given) if given.isdigit() and len(given) == 3 else answer.status


def pass_on(answer: ScorerAnswer, deployment: str) -> Response:
    """The scorer's answer as Azure shows it: 424 with the model's own status for all that is not 200.

    Source: "HTTP status codes" of Azure's "Troubleshoot online endpoints deployment and scoring". The body
    is the model's own. A body too large for the scorer is 413, as it is for the router.
    """
    status = model_status(answer)
    if status == answer.status == 413:
        response: Response = Passed(413, answer)
    elif status == 200:
        response = Passed(200, answer)
    else:
        response = Passed(424, answer)
        reason = answer.header(MODEL_REASON_HEADER.encode()) or _phrase(status).encode()
        response.headers[MODEL_STATUS_HEADER] = str(status)
        response.headers[MODEL_REASON_HEADER] = reason.decode("latin-1")
    response.headers[DEPLOYMENT_HEADER] = deployment
    return response


def died(deployment: str, reason: str) -> AzureError:
    """424 for a request with which its scorer ended; 502 is what a proxy says of such a container."""
    headers = {
        MODEL_STATUS_HEADER: "502",
        MODEL_REASON_HEADER: "The scorer ended while it worked on the request.",
        DEPLOYMENT_HEADER: deployment,
    }
    text = f"The scorer of deployment {deployment!r} ended while it worked on the request: {reason}."
    return AzureError(424, "ModelError", text, headers=headers)


def unavailable(message: str) -> AzureError:
    return AzureError(503, "ServiceUnavailable", message, headers={"Retry-After": "1"})


def render(error: AzureError, *, body_read: bool = False) -> Response:
    kind = Response if body_read else Refusal
    return kind(json.dumps(error.body()), error.status, error.headers, media_type="application/json")


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
