"""The secrets of a data folder: made once, mode 0600, never sent anywhere but to their owner's clients."""

from __future__ import annotations

import secrets

from amlocal.compat.tokens import TokenIssuer, write_secret
from amlocal.emulator.store.folder import DataFolder


def identity_header(folder: DataFolder) -> str:
    """The secret that the managed-identity endpoint asks for (IDENTITY_HEADER)."""
    return _text(folder, "identity_header")


def sas_secret(folder: DataFolder) -> bytes:
    """The key that signs shared access signatures."""
    return _text(folder, "sas_key").encode()


def token_issuer(folder: DataFolder) -> TokenIssuer:
    """Signs and verifies tokens; its issuer names the data folder's own key, not a host."""
    return TokenIssuer(folder.secrets / "signing_key.pem", "https://sts.amlocal.localhost/")


def _text(folder: DataFolder, name: str) -> str:
    path = folder.secrets / name
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32).encode())
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path.read_text()
