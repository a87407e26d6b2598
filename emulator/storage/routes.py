"""The Blob REST surface: the calls that azure-storage-blob, azure-ai-ml and mltable's native code make.

URL forms: `/<account>.blob.<suffix>/<container>/<blob>` (what a client makes of the datastore's account name)
and `/<account>/<container>/<blob>`. Accounts are `aml` and 12 hex digits, so no other route is shadowed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flask import Blueprint, Response, request
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.routing import BaseConverter

from amlocal.emulator.http.disk import disk_full, is_disk_full
from amlocal.emulator.http.errors import AzureError, bad_request, not_found
from amlocal.emulator.storage.blobs import MAX_RESULTS, BlobStore
from amlocal.emulator.storage.conditions import Conditions
from amlocal.emulator.storage.documents import (
    MAX_BLOCK_LIST_BYTES,
    is_xml_text,
    list_document,
    parse_block_list,
)
from amlocal.emulator.storage.inputs import (
    byte_range,
    check_supported,
    max_results,
    metadata_of,
    stored_headers,
)
from amlocal.emulator.storage.names import ACCOUNT_PATTERN, BlobRef, shown
from amlocal.emulator.storage.responses import (
    blob_response,
    empty,
    error_response,
    finish,
    metadata_headers,
)
from amlocal.emulator.storage.sas import PERMISSIONS, SasKey
from amlocal.emulator.storage.staging import too_large

_METHODS = ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS"]


class _Account(BaseConverter):
    regex = rf"{ACCOUNT_PATTERN}(?:\.blob\.[A-Za-z0-9.-]{{1,253}})?"

    def to_python(self, value: str) -> str:
        return value.split(".", 1)[0]


class _Rest(BaseConverter):
    """Anything, slashes and all, so that the router neither merges slashes nor redirects."""

    regex = r"(?s:.*?)"
    part_isolating = False


@dataclass(frozen=True, slots=True)
class _Surface:
    store: BlobStore
    sas: SasKey
    authorise: Callable[[str], bool]
    max_body: int

    def permit(self, account: str, container: str, blob: str | None, needed: str) -> str:
        """The permissions of the caller, of which `needed` (one of its letters) is one."""
        if "sig" in request.args:
            query = request.query_string.decode("latin-1")
            return self.sas.verify(query, account, container, blob, needed)
        if "Authorization" not in request.headers:
            raise AzureError(
                401,
                "NoAuthenticationInformation",
                "The request has neither a shared access signature nor an Authorization header.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not self.authorise(account):
            raise AzureError(
                403,
                "AuthorizationPermissionMismatch",
                f"The token is not for the workspace of storage account {account}.",
            )
        return PERMISSIONS

    def container(self, account: str, container: str) -> Response:
        """A request about a container."""
        comp = request.args.get("comp", "")
        if request.args.get("restype") != "container":
            if request.method in ("GET", "HEAD"):
                raise not_found("No blob is named; for a container add restype=container.")
            raise bad_request("InvalidUri", "No blob is named; for a container add restype=container.")
        match (request.method, comp):
            case ("GET", "list"):
                self.permit(account, container, None, "l")
                return self.list(account, container)
            case ("GET" | "HEAD", "" | "metadata"):
                self.permit(account, container, None, "rl")
                return empty(200, self.store.container_identity(account, container))
            case ("PUT", ""):
                self.permit(account, container, None, "c")
                self.store.create_container(account, container)
                return empty(201, self.store.container_identity(account, container))
        self.permit(account, container, None, PERMISSIONS)
        raise _unsupported(comp)

    def list(self, account: str, container: str) -> Response:
        args = request.args
        prefix, delimiter, marker = (args.get(name, "") for name in ("prefix", "delimiter", "marker"))
        if not is_xml_text(prefix + delimiter):
            raise bad_request("InvalidQueryParameterValue", "prefix or delimiter has a control character.")
        asked = max_results(args)
        page = self.store.list(
            account,
            container,
            prefix=prefix,
            delimiter=delimiter,
            marker=marker,
            max_results=asked or MAX_RESULTS,
        )
        document = list_document(
            page,
            endpoint=f"{request.host_url}{account}/",
            container=container,
            prefix=prefix,
            delimiter=delimiter,
            marker=marker,
            max_results=asked,
            metadata="metadata" in args.get("include", "").split(","),
        )
        return Response(document, content_type="application/xml")

    def blob(self, account: str, container: str, name: str) -> Response:
        """A request about a blob."""
        if not name:
            return self.container(account, container)
        comp = request.args.get("comp", "")
        match (request.method, comp):
            case ("GET" | "HEAD", "" | "metadata"):
                self.permit(account, container, name, "r")
                return self.read(_existing(account, container, name), only_metadata=comp == "metadata")
            case ("DELETE", ""):
                self.permit(account, container, name, "d")
                check_supported(request.headers, request.args)
                self.store.delete(
                    _existing(account, container, name), conditions=Conditions.of(request.headers)
                )
                return empty(202)
            case ("PUT", "metadata"):
                self.permit(account, container, name, "w")
                check_supported(request.headers, request.args)
                changed = self.store.set_metadata(
                    _existing(account, container, name),
                    metadata_of(request.environ),
                    conditions=Conditions.of(request.headers),
                )
                return empty(200, changed.identity)
            case ("PUT", "" | "block" | "blocklist"):
                granted = self.permit(account, container, name, "cw")
                return self.write(BlobRef(account, container, name), comp, may_replace="w" in granted)
        self.permit(account, container, name, PERMISSIONS)
        raise _unsupported(comp)

    def read(self, ref: BlobRef, *, only_metadata: bool) -> Response:
        check_supported(request.headers, request.args)
        blob = self.store.open(ref)
        try:
            Conditions.of(request.headers).check_read(blob.properties.identity)
            if only_metadata:
                blob.file.close()
                return metadata_headers(blob.properties, empty(200, blob.properties.identity))
            span = byte_range(request.headers, blob.properties.size) if request.method == "GET" else None
            range_md5 = request.headers.get("x-ms-range-get-content-md5", "").lower() == "true"
            return blob_response(blob, span, range_md5=range_md5)
        except BaseException:
            blob.file.close()
            raise

    def write(self, ref: BlobRef, comp: str, *, may_replace: bool) -> Response:
        headers = request.headers
        check_supported(headers, request.args)
        limit = MAX_BLOCK_LIST_BYTES if comp == "blocklist" else self.max_body
        if request.content_length is not None and request.content_length > limit:
            raise too_large(limit)
        # The store counts; this only lifts an app-wide limit that is meant for JSON bodies.
        request.max_content_length = limit + 1
        if comp == "block":
            md5 = self.store.put_block(
                ref,
                request.args.get("blockid", ""),
                request.stream,
                content_md5=headers.get("Content-MD5"),
                expected_size=request.content_length,
                max_size=limit,
            )
            response = empty(201)
            response.headers["Content-MD5"] = md5
            return response
        wanted = Conditions.of(headers)
        conditions = wanted if may_replace else replace(wanted, if_none_match="*")
        metadata = metadata_of(request.environ)
        try:
            if comp == "blocklist":
                body = request.stream.read(limit + 1)
                if len(body) > limit:
                    raise too_large(limit)
                properties = self.store.put_block_list(
                    ref,
                    parse_block_list(body),
                    headers=stored_headers(headers, own_only=True),
                    metadata=metadata,
                    md5=_blob_md5(headers.get("x-ms-blob-content-md5")),
                    conditions=conditions,
                )
            else:
                _check_blob_type(headers.get("x-ms-blob-type"))
                properties = self.store.put(
                    ref,
                    request.stream,
                    headers=stored_headers(headers, own_only=False),
                    metadata=metadata,
                    content_md5=headers.get("Content-MD5") or headers.get("x-ms-blob-content-md5"),
                    expected_size=request.content_length,
                    max_size=limit,
                    conditions=conditions,
                )
        except AzureError as error:
            if error.code == "BlobAlreadyExists" and not wanted.must_be_new:
                raise AzureError(
                    403,
                    "UnauthorizedBlobOverwrite",
                    "The SAS grants making blobs ('c'), not replacing them ('w').",
                ) from error
            raise
        response = empty(201, properties.identity)
        if properties.md5:
            response.headers["Content-MD5"] = properties.md5
        return response


def create_blueprint(
    store: BlobStore, sas: SasKey, authorise: Callable[[str], bool], max_body: int
) -> Blueprint:
    """The routes of the Blob service.

    `authorise(account)` judges the Authorization header of the present request: AzureError where it is bad,
    False where it is for another workspace. `max_body`: bytes that one request may carry.
    """
    surface = _Surface(store, sas, authorise, max_body)
    blueprint = Blueprint("storage", __name__)

    @blueprint.record_once
    def _converters(state: BlueprintSetupState) -> None:
        converters = state.app.url_map.converters
        converters["storage_account"] = _Account
        converters["storage_rest"] = _Rest

    blueprint.add_url_rule(
        "/<storage_account:account>/<container>",
        "container",
        surface.container,
        methods=_METHODS,
        provide_automatic_options=False,
    )
    blueprint.add_url_rule(
        "/<storage_account:account>/<container>/<storage_rest:name>",
        "blob",
        surface.blob,
        methods=_METHODS,
        provide_automatic_options=False,
    )
    blueprint.register_error_handler(AzureError, error_response)
    blueprint.register_error_handler(HTTPException, _http_error)
    blueprint.register_error_handler(OSError, _os_error)
    blueprint.after_request(finish)
    return blueprint


def _existing(account: str, container: str, name: str) -> BlobRef:
    # Clients ask for 'folder/' to see whether a blob of that name exists: a plain no.
    if name.endswith("/"):
        raise not_found(f"There is no blob {shown(name)} in {shown(container)}.", code="BlobNotFound")
    return BlobRef(account, container, name)


def _check_blob_type(kind: str | None) -> None:
    if kind != "BlockBlob":
        raise bad_request(
            "InvalidHeaderValue" if kind else "MissingRequiredHeader",
            f"x-ms-blob-type is {shown(kind or '')}; this server has block blobs: 'BlockBlob'.",
            target="x-ms-blob-type",
        )


def _blob_md5(text: str | None) -> str | None:
    if text is None or (len(text) == 24 and text.isascii() and text.isprintable()):
        return text
    raise bad_request("InvalidMd5", f"x-ms-blob-content-md5 is not an MD5 in base64: {shown(text)}.")


def _unsupported(comp: str) -> AzureError:
    if comp:
        return bad_request(
            "InvalidQueryParameterValue",
            f"This server does not do {request.method} with comp={shown(comp)}.",
            target="comp",
        )
    return AzureError(
        405,
        "UnsupportedHttpVerb",
        f"This server does not do {shown(request.method)} on blobs and containers.",
    )


def _os_error(error: OSError) -> Response:
    if not is_disk_full(error):
        raise error
    return error_response(disk_full())


def _http_error(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return error_response(AzureError(413, "RequestBodyTooLarge", "The body is too large."))
    status = error.code or 500
    return error_response(AzureError(status, "InvalidInput", error.description or error.name))
