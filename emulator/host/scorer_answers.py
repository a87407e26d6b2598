"""What models and scoring scripts return, as HTTP answers. Part of `scorer.py`.

Standard library only.
"""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any, Iterable  # noqa: UP035  (older Pythons)

if TYPE_CHECKING:
    from amlocal.emulator.host.scorer_requests import Answer
else:
    from scorer_requests import Answer

REASON_HEADER = "ms-azureml-model-error-reason"
STATUS_HEADER = "ms-azureml-model-error-statuscode"
JSON = ("Content-Type", "application/json")
# Those that belong to one connection, to the server, or to the platform.
NOT_PASSED_ON = frozenset(
    (
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
PLATFORM_PREFIX = "ms-azureml-"


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), [JSON])


def to_plain(value: Any) -> Any:
    """A result as JSON values: tables become lists of records, bytes base64 text, NaN and infinities null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(item) for item in value]
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [to_plain(record) for record in value.to_dict(orient="records")]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    raise TypeError(f"a result of type {type(value).__name__} cannot be written as JSON")


def script_answer(result: Any) -> Answer:
    """What run() returned: a response (AMLResponse, Flask's) as it is, bytes as they are, all else as JSON.

    NaN and infinities, which JSON has not, become null. Raises TypeError for what cannot be written as JSON
    and ValueError for headers that cannot be sent.
    """
    if all(hasattr(result, name) for name in ("status_code", "headers", "get_data")):
        return response_answer(result)
    if isinstance(result, (bytes, bytearray, memoryview)):
        return Answer(200, bytes(result), [("Content-Type", "application/octet-stream")])
    try:
        try:
            text = json.dumps(result, allow_nan=False)
        except ValueError:
            text = json.dumps(without_nan(result))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"run() returned what is not JSON serializable: {error}") from error
    return Answer(200, text.encode(), [JSON])


def without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def response_answer(response: Any) -> Answer:
    status = int(response.status_code)
    if not 200 <= status <= 599:
        raise ValueError(f"run() returned a response with the status {status}; it must be from 200 to 599")
    if getattr(response, "direct_passthrough", False):
        # Flask's send_file; its data can be read only without it.
        response.direct_passthrough = False
    body = response.get_data()
    headers = clean_headers(response.headers.items())
    if hasattr(response, "close"):
        response.close()
    if status != 200:
        # Azure answers 424 for whatever is not 200 and tells the model's own status in these.
        reason = f"the scoring script answered with status {status}"
        headers += [(STATUS_HEADER, str(status)), (REASON_HEADER, reason)]
    return Answer(status, body if isinstance(body, bytes) else str(body).encode(), headers)


def clean_headers(given: Iterable[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Headers of a script's answer that may go to its caller. Raises ValueError for what is no header."""
    headers = []
    for name, value in ((str(name), str(value)) for name, value in given):
        if name.lower() in NOT_PASSED_ON or name.lower().startswith(PLATFORM_PREFIX):
            continue
        token = name.replace("-", "").replace("_", "")
        if not (token.isascii() and token.isalnum()):
            raise ValueError(f"run() returned a header with the name {name[:80]!r}")
        if not value.isprintable() or any(ord(letter) > 255 for letter in value):
            raise ValueError(f"run() returned a header {name[:80]!r} with a value that cannot be sent")
        headers.append((name, value))
    return headers


def failure_headers(reason: str) -> dict[str, str]:
    """Those that make the router answer 424, as Azure does when a model's code fails."""
    text = " ".join(reason.split()).encode("ascii", "replace").decode()[:300]
    return {STATUS_HEADER: "500", REASON_HEADER: text}
