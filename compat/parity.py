"""The claims of `parity.toml`: what of the SDK works here, which tests prove that, and the table of it.

Operations are the public methods of the operation groups of azure-ai-ml's MLClient, found by looking at it.
"""

from __future__ import annotations

import inspect
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("parity.toml")
WORKS, REFUSED, NOT_YET = "works", "refused", "not there yet"
STATES = (WORKS, REFUSED, NOT_YET)
# Of every client but the SDK, an operation is what that client calls it.
CLIENTS = ("sdk", "az", "mlflow", "mltable", "rest")


@dataclass(frozen=True)
class Claim:
    """One operation by one client.

    `witness` and `failing` are node ids of pytest. A witness reads the effect by another operation, in a
    process or on disk; `effect` says how. `code` is the error code of a refusal: Azure's, or the exception's
    name where the client refuses without asking.
    """

    operation: str
    state: str
    client: str = "sdk"
    witness: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    effect: str = ""
    code: str = ""
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """What works and gives other values than in Azure, as texts: `why` says the reason."""

    what: str
    azure: str
    here: str
    why: str


@dataclass(frozen=True)
class Parity:
    """All claims, the version of azure-ai-ml whose operations they name, and the differences."""

    version: str
    claims: tuple[Claim, ...]
    differences: tuple[Difference, ...] = ()

    def of(self, client: str) -> tuple[Claim, ...]:
        """The claims of one client."""
        return tuple(claim for claim in self.claims if claim.client == client)

    def count(self, state: str, client: str = "sdk") -> int:
        """How many claims of a client have a state."""
        return sum(claim.state == state for claim in self.of(client))

    def summary(self) -> str:
        """`N of M work, ...`, for the SDK."""
        return (
            f"{self.count(WORKS)} of {len(self.of('sdk'))} work, {self.count(REFUSED)} refused by name, "
            f"{self.count(NOT_YET)} not there yet"
        )


def load(path: Path = FILE) -> Parity:
    """Read the claims. Raises ValueError naming the claim or difference that is not well formed."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Parity(
        str(document["version"]),
        tuple(_claim(entry) for entry in document["claim"]),
        tuple(_difference(entry) for entry in document.get("difference", [])),
    )


def _difference(entry: dict[str, Any]) -> Difference:
    wanted = {field.name for field in fields(Difference)}
    if set(entry) != wanted or not all(isinstance(text, str) and text for text in entry.values()):
        raise ValueError(f"{entry.get('what', '?')}: a difference has the texts {', '.join(sorted(wanted))}")
    return Difference(**entry)


def _claim(entry: dict[str, Any]) -> Claim:
    name = entry.get("operation", "?")
    known = {field.name for field in fields(Claim)}
    if unknown := set(entry) - known:
        raise ValueError(f"{name}: unknown fields {sorted(unknown)}")
    for key in ("witness", "failing"):
        value = entry.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name}: {key} must be a list of tests")
        entry = {**entry, key: tuple(value)}
    for key in known - {"witness", "failing"}:
        if not isinstance(entry.get(key, ""), str):
            raise ValueError(f"{name}: {key} must be a text")
    claim = Claim(**entry)
    if claim.state not in STATES:
        raise ValueError(f"{name}: state {claim.state!r}: use one of {', '.join(STATES)}")
    if claim.client not in CLIENTS:
        raise ValueError(f"{name}: client {claim.client!r}: use one of {', '.join(CLIENTS)}")
    return claim


def operations() -> dict[str, tuple[str, ...]]:
    """Group -> its public methods, for every property of MLClient that is an operation group.

    Nothing is connected to: the classes are taken from the properties' annotations.
    """
    from azure.ai.ml import MLClient

    found = {}
    for name, member in inspect.getmembers(MLClient, lambda value: isinstance(value, property)):
        group = typing.get_type_hints(member.fget).get("return")
        if inspect.isclass(group) and group.__module__.startswith("azure.ai.ml.operations"):
            methods = inspect.getmembers(group, callable)
            found[name] = tuple(sorted(method for method, _ in methods if not method.startswith("_")))
    return found


def render(parity: Parity) -> str:
    """The claims as Markdown: a line of counts, then a table for each group and for each other client."""
    lines = [
        f"**azure-ai-ml {parity.version}: {parity.summary()}.**",
        "",
        "An operation works if a test calls it through the unmodified SDK and reads its effect by another "
        "operation, in a process or on disk, and a test sees it fail as it should. A refused one answers "
        "with the code beside it, which a test checks too.",
        "",
    ]
    groups: dict[str, list[Claim]] = {}
    for claim in parity.claims:
        of = claim.operation.partition(".")[0] if claim.client == "sdk" else claim.client
        groups.setdefault(of, []).append(claim)
    for group, claims in groups.items():
        working = sum(claim.state == WORKS for claim in claims)
        lines += [
            f"### {group} ({working} of {len(claims)})",
            "",
            "| Operation | State | How |",
            "|---|---|---|",
        ]
        lines += [f"| `{claim.operation}` | {claim.state} | {_how(claim)} |" for claim in claims]
        lines.append("")
    return "\n".join(lines)


def differences(parity: Parity) -> str:
    """The differences as a table in Markdown."""
    lines = ["| What | In Azure | Here | Why |", "|---|---|---|---|"]
    lines += [f"| {one.what} | {one.azure} | {one.here} | {one.why} |" for one in parity.differences]
    return "\n".join(lines)


def _how(claim: Claim) -> str:
    parts = [claim.effect] if claim.effect else []
    if claim.code:
        parts.append(f"`{claim.code}`")
    if claim.note:
        parts.append(claim.note)
    tests = _tests((*claim.witness, *claim.failing))
    if tests:
        parts.append(tests)
    return "; ".join(parts).replace("|", "\\|")


def _tests(nodes: Sequence[str]) -> str:
    """The tests' names, without their folders and parameters."""
    names = dict.fromkeys(node.rpartition("/")[2].partition("[")[0] for node in nodes)
    return ", ".join(f"`{name}`" for name in names)
