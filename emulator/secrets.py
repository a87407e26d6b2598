"""The secrets of a data folder: made once, mode 0600, never sent anywhere but to their owner's clients."""

from __future__ import annotations

import secrets
from pathlib import Path

from amlocal.compat.tokens import TokenIssuer, write_secret
from amlocal.emulator.store.folder import DataFolder

TOKEN_ISSUER = "https://sts.amlocal.localhost/"  # noqa: S105 (an address, no secret)


def identity_header(folder: DataFolder) -> str:
    """The secret that the managed-identity endpoint asks for (IDENTITY_HEADER)."""
    return _text(folder, "identity_header")


def sas_secret(folder: DataFolder) -> bytes:
    """The key that signs shared access signatures."""
    return _text(folder, "sas_key").encode()


def token_issuer(folder: DataFolder) -> TokenIssuer:
    """Signs and verifies tokens; its issuer names the data folder's own key, not a host.

    Its public key is put beside its own, for the process that may verify tokens only.
    """
    issuer = TokenIssuer(folder.secrets / "signing_key.pem", TOKEN_ISSUER)
    public = public_key_file(folder)
    if not public.exists() or public.read_bytes() != issuer.public_key:
        write_secret(public, issuer.public_key)
    return issuer


def public_key_file(folder: DataFolder) -> Path:
    """Where `token_issuer` leaves the public key, a PEM."""
    return folder.secrets / "signing_key.pub.pem"


def _text(folder: DataFolder, name: str) -> str:
    path = folder.secrets / name
    if not path.exists():
        write_secret(path, secrets.token_urlsafe(32).encode())
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return path.read_text()
