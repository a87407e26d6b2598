"""Conditional requests: If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since.

Source: Azure Storage, conditional headers for Blob service operations (RFC 9110 with Azure's statuses).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol

from amlocal.emulator.http.errors import AzureError, bad_request
from amlocal.emulator.storage.files import Identity
from amlocal.emulator.storage.names import BlobRef, shown


class HeaderView(Protocol):
    """A request's headers: names in any case."""

    def get(self, key: str, /) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of one request. Entity tags as sent, quoted; times aware."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: datetime | None = None
    if_unmodified_since: datetime | None = None

    @classmethod
    def of(cls, headers: HeaderView) -> Conditions:
        """The conditions in a request's headers; AzureError 400 for a time that is none."""
        return cls(
            headers.get("If-Match"),
            headers.get("If-None-Match"),
            _time(headers, "If-Modified-Since"),
            _time(headers, "If-Unmodified-Since"),
        )

    @property
    def must_be_new(self) -> bool:
        """Whether the request may only make what does not exist yet."""
        return self.if_none_match is not None and self.if_none_match.strip() == "*"

    def check_read(self, identity: Identity) -> None:
        """AzureError 412 where a condition fails, 304 where the client's copy is the present one."""
        self._check_present(identity)
        if self.if_none_match is not None:
            if self.must_be_new or _names(self.if_none_match, identity.etag):
                raise _unmodified(identity)
        elif self.if_modified_since and identity.modified <= self.if_modified_since:
            raise _unmodified(identity)

    def check_write(self, ref: BlobRef, identity: Identity | None) -> None:
        """`identity` None: there is no such blob. AzureError 409 BlobAlreadyExists, 412 ConditionNotMet."""
        if identity is None:
            if self.if_match is not None:
                raise _not_met("If-Match is given and there is no such blob")
            return
        if self.must_be_new:
            raise already_exists(ref)
        self._check_present(identity)
        if self.if_none_match is not None and _names(self.if_none_match, identity.etag):
            raise _not_met(f"If-None-Match names the present entity tag {identity.etag}")
        if self.if_modified_since and identity.modified <= self.if_modified_since:
            raise _not_met("the blob was not modified since If-Modified-Since")

    def _check_present(self, identity: Identity) -> None:
        if (
            self.if_match is not None
            and self.if_match.strip() != "*"
            and not _names(self.if_match, identity.etag)
        ):
            raise _not_met(f"the entity tag is {identity.etag}, If-Match asks for {shown(self.if_match)}")
        if self.if_unmodified_since and identity.modified > self.if_unmodified_since:
            raise _not_met("the blob was modified after If-Unmodified-Since")


def already_exists(ref: BlobRef) -> AzureError:
    """409 BlobAlreadyExists."""
    return AzureError(
        409,
        "BlobAlreadyExists",
        f"The blob {shown(ref.blob)} exists in {ref.container} already, and the request asks not to replace "
        "it.",
    )


def _names(header: str, etag: str) -> bool:
    return etag in (tag.strip() for tag in header.split(","))


def _time(headers: HeaderView, name: str) -> datetime | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, OverflowError) as error:
        raise bad_request(
            "InvalidHeaderValue", f"The header {name} is not an HTTP date: {shown(text)}.", target=name
        ) from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _not_met(why: str) -> AzureError:
    return AzureError(412, "ConditionNotMet", f"A condition of the request is not met: {why}.")


def _unmodified(identity: Identity) -> AzureError:
    return AzureError(
        304, "ConditionNotMet", "The blob is the one the client has.", headers={"ETag": identity.etag}
    )
