"""Where an interpreter differs from what an environment asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amlocal.emulator.jobs.environment_interpreters import Interpreter
from amlocal.emulator.jobs.environment_pins import Pins, Wanted, normalised

# Characters of a job's property; Azure ML's own are short as well.
_MOST = 1000


@dataclass(frozen=True)
class Difference:
    """One package: what is wanted (a version part, or "" for any) and what is installed, None for nothing."""

    package: str
    wanted: str
    installed: str | None

    def __str__(self) -> str:
        wanted = self.wanted or "any version"
        return f"{self.package}: wanted {wanted}, {self.installed or 'not'} installed"


def of_python(pins: Pins, version: str) -> list[Difference]:
    """The difference in Python itself, if there is one."""
    if pins.python is None or pins.python.accepts(version):
        return []
    return [Difference("python", pins.python.text, version)]


def between(pins: Pins, interpreter: Interpreter) -> list[Difference]:
    """Every difference, Python first, then in the order of the conda file."""
    found = of_python(pins, interpreter.version)
    for wanted in (*pins.conda, *pins.pip):
        if not _holds(wanted, interpreter):
            continue
        installed = interpreter.installed.get(normalised(wanted.package))
        if installed is None or not wanted.accepts(installed):
            found.append(Difference(wanted.package, wanted.text, installed))
    return found


def not_installed(pins: Pins) -> list[Difference]:
    """The conda packages, of which pip installs none."""
    return [Difference(wanted.package, wanted.text, None) for wanted in pins.conda]


def told(differences: Sequence[Difference], most: int = _MOST) -> str:
    """All differences in one text of at most about `most` characters."""
    parts: list[str] = []
    length = 0
    for number, difference in enumerate(differences):
        part = str(difference)[:200]
        length += len(part) + 2
        if length > most:
            parts.append(f"and {len(differences) - number} more")
            break
        parts.append(part)
    return "; ".join(parts)


def details(differences: Iterable[Difference]) -> list[dict[str, str]]:
    """The details of Azure's error envelope, one for each difference."""
    return [
        {"code": "EnvironmentDifference", "message": str(difference), "target": difference.package}
        for difference in differences
    ]


def _holds(wanted: Wanted, interpreter: Interpreter) -> bool:
    marker = wanted.requirement.marker if wanted.requirement is not None else None
    return marker is None or marker.evaluate(interpreter.markers())
