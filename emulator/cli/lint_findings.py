"""What lint found, and how it is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
FORMATS = ("text", "github", "json")


@dataclass(frozen=True)
class Finding:
    """One fault in one line of a file; lines count from 1."""

    file: str
    line: int
    severity: Severity
    message: str

    def as_dict(self) -> dict[str, str | int]:
        return {"file": self.file, "line": self.line, "severity": self.severity, "message": self.message}


class Unreadable(Exception):
    """A file cannot be checked at all."""

    def __init__(self, file: str, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.finding = Finding(file, line, "error", one_line(message))


def one_line(text: str) -> str:
    """A message on one line, without anything that a terminal would obey."""
    joined = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(char if char.isprintable() else "�" for char in joined)


def rendered(findings: Iterable[Finding], style: str) -> Iterable[str]:
    """The lines to print: `FILE:LINE: error: text`, GitHub's workflow commands, or one JSON list."""
    if style == "json":
        yield json.dumps([finding.as_dict() for finding in findings], ensure_ascii=False, indent=1)
        return
    for finding in findings:
        if style == "github":
            place = f"file={_escaped(finding.file, ',:')},line={finding.line}"
            yield f"::{finding.severity} {place}::{_escaped(finding.message, '')}"
        else:
            yield f"{one_line(finding.file)}:{finding.line}: {finding.severity}: {finding.message}"


def _escaped(text: str, more: str) -> str:
    """GitHub's rule: %, line ends, and in properties also comma and colon, as percent codes."""
    return "".join(f"%{ord(char):02X}" if char in "%\r\n" + more else char for char in text)
