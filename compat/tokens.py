"""Tokens as both sides need them: real signed JWTs (RFC 7519, ES256), issued and verified here."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ALGORITHM = "ES256"
USER_LIFETIME = 24 * 3600
_REMEMBERED = 512


class TokenError(ValueError):
    """A token that does not open the door; the message says why."""


class TokenVerifier:
    """Verifies tokens of `issuer` with the public key alone, a PEM; for processes that must not sign any."""

    def __init__(self, public_key: bytes, issuer: str, clock: Callable[[], float] = time.time) -> None:
        """Raises ValueError for what is not the PEM of an elliptic curve's public key."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        key = serialization.load_pem_public_key(public_key)
        if not isinstance(key, EllipticCurvePublicKey):
            raise ValueError(f"the key is not one for {ALGORITHM}")
        self._public = key
        self._issuer = issuer
        self._clock = clock
        self._genuine: dict[bytes, dict[str, Any]] = {}

    def verify(self, token: str, audiences: Iterable[str]) -> Mapping[str, Any]:
        """The claims of a good token. Raises TokenError for a forged, expired or foreign one.

        A client sends the same token with every request: once its signature was found good it is remembered,
        by its digest. Audience and end are compared every time.
        """
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        claims = self._genuine.get(digest)
        if claims is None:
            claims = self._claims(token)
            if len(self._genuine) >= _REMEMBERED:
                self._genuine.clear()
            self._genuine[digest] = claims
        if claims["aud"] not in audiences:
            raise TokenError("the token is for another audience")
        if float(claims["exp"]) <= self._clock():
            raise TokenError("the token has expired")
        return claims

    def _claims(self, token: str) -> dict[str, Any]:
        """What a token says that we signed. Raises TokenError."""
        import jwt

        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._public,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                # Audience and times are compared by `verify`, the times with a clock that can be given.
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "require": ["exp", "aud", "iss"],
                },
            )
        except jwt.InvalidIssuerError as error:
            raise TokenError("the token was issued by somebody else") from error
        except jwt.PyJWTError as error:
            raise TokenError(f"the token is not valid ({type(error).__name__})") from error
        return claims


class TokenIssuer(TokenVerifier):
    """Signs and verifies tokens with the key in `path` (made with mode 0600 when missing)."""

    def __init__(self, path: Path, issuer: str, clock: Callable[[], float] = time.time) -> None:
        from cryptography.hazmat.primitives import serialization

        self._key = _load_or_make(path)
        # What a TokenVerifier needs.
        self.public_key = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        super().__init__(self.public_key, issuer, clock)

    def issue(self, audience: str, *, lifetime: float = USER_LIFETIME, **claims: Any) -> str:
        """A token for `audience`, valid for `lifetime` seconds, with further `claims`."""
        import jwt

        now = int(self._clock())
        payload = {
            "aud": audience,
            "iss": self._issuer,
            "iat": now,
            "nbf": now,
            "exp": now + int(lifetime),
            "jti": uuid.uuid4().hex,
            **claims,
        }
        return jwt.encode(payload, self._key, algorithm=ALGORITHM)


def _load_or_make(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_secret(path, pem)
    loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return loaded


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
