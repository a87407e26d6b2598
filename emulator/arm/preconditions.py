"""If-Match and If-None-Match: a change is made only to the state that its sender has seen."""

from __future__ import annotations

from dataclasses import dataclass

from flask import request

from amlocal.emulator.arm.documents import Document
from amlocal.emulator.http.errors import AzureError


@dataclass(frozen=True)
class Precondition:
    """The request's If-Match and If-None-Match (RFC 9110). Read once: the writer's thread has no request."""

    match: str | None
    none_match: str | None

    @classmethod
    def of_request(cls) -> Precondition:
        return cls(request.headers.get("If-Match"), request.headers.get("If-None-Match"))

    def check(self, present: Document | None) -> None:
        """Raises 412."""
        if self.match and (
            present is None or not {"*", present.etag} & {tag.strip() for tag in self.match.split(",")}
        ):
            raise AzureError(
                412, "PreconditionFailed", "The resource has changed: its etag is not the one in If-Match."
            )
        if self.none_match == "*" and present is not None:
            raise AzureError(412, "PreconditionFailed", "The resource exists already.")
