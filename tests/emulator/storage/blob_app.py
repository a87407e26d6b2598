"""The Blob surface alone, as granian serves it in the tests. Settings come by environment."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, request

from amlocal.emulator.http.errors import AzureError
from amlocal.emulator.storage.blobs import BlobStore
from amlocal.emulator.storage.routes import create_blueprint
from amlocal.emulator.storage.sas import SasKey


def authorise(account: str) -> bool:
    """Takes 'Bearer for:<account>'."""
    kind, _, token = request.headers["Authorization"].partition(" ")
    if kind != "Bearer" or not token.startswith("for:"):
        raise AzureError(401, "InvalidAuthenticationInfo", "not a token of this test")
    return token == f"for:{account}"


def create_app() -> Flask:
    root = Path(os.environ["BLOB_TEST_ROOT"])
    store = BlobStore(root / "blobs", root / "meta", root / "tmp")
    store.clean()
    app = Flask("blobs")
    app.config["MAX_CONTENT_LENGTH"] = 1000  # meant for JSON bodies; the Blob surface has its own
    sas = SasKey(bytes.fromhex(os.environ["BLOB_TEST_SECRET"]))
    app.register_blueprint(create_blueprint(store, sas, authorise, int(os.environ["BLOB_TEST_MAX_BODY"])))

    @app.get("/<path:anything>")
    def elsewhere(anything: str) -> str:
        return f"another route: {anything}"

    return app
