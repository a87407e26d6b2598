"""Keys of endpoints: two of them, so that one can be changed while clients use the other."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

KEY_BYTES = 32


@dataclass(frozen=True)
class EndpointKeys:
    """The pair that `listKeys` answers."""

    primary: str = field(repr=False)
    secondary: str = field(repr=False)

    def hashes(self) -> tuple[str, str]:
        """What the route table holds instead of the keys."""
        return hash_key(self.primary), hash_key(self.secondary)


def generate_key() -> str:
    return secrets.token_urlsafe(KEY_BYTES)


def hash_key(key: str) -> str:
    """SHA-256 in hex; plain, as the key has 256 bits of randomness."""
    return hashlib.sha256(key.encode()).hexdigest()


def matches(key: str, hashes: Iterable[str]) -> bool:
    """Whether `key` is one of those hashed. Compares with all of them, each in constant time."""
    digest = hash_key(key)
    found = False
    for known in hashes:
        found |= hmac.compare_digest(digest, known)
    return found
