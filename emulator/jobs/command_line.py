"""The command of a job: `${{inputs.x}}`, `${{outputs.x}}` and `$[[ optional parts ]]` filled in.

The command of a sweep's trials can have `${{search_space.x}}` beside them.

The command is the user's own text for bash. What is put into it are values, and each is quoted for the place
where it stands (bare, in double or in single quotes), so that no value can become a part of the program.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from amlocal.emulator.http.errors import user_error

_REFERENCE = re.compile(r"\$\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_ANY = re.compile(r"\$\{\{(.{0,80}?)\}\}", re.DOTALL)
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_NOUNS = {"inputs": "input", "outputs": "output", "search_space": "parameter of the search space"}
_IN_DOUBLE = re.compile(r'([\\"$`])')


def check(
    command: str,
    inputs: Mapping[str, object],
    outputs: Mapping[str, object],
    space: Mapping[str, object] | None = None,
) -> None:
    """Raises AzureError 400 for a reference that cannot be filled in; `space` None: the job is no sweep."""
    known = {"inputs": inputs, "outputs": outputs, **({} if space is None else {"search_space": space})}
    required = _OPTIONAL.sub(" ", command)
    for match in _ANY.finditer(command):
        reference = _REFERENCE.fullmatch(match[0])
        if reference is None or reference[1] not in known:
            forms = [f"${{{{{kind}.NAME}}}}" for kind in known]
            raise user_error(
                f"command: {match[0]!r} is not understood; use {', '.join(forms[:-1])} or {forms[-1]}.",
                target="command",
            )
    for reference in _REFERENCE.finditer(required):
        kind, name = reference[1], reference[2]
        if name not in known[kind]:
            there = ", ".join(known[kind]) or "none"
            noun = _NOUNS[kind]
            raise user_error(
                f"command: {reference[0]} names no {noun} of the job (there: {there}). Give it, or put "
                "that part of the command into $[[ ... ]] to make it optional.",
                target="command",
            )


def fill(
    command: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    space: Mapping[str, str] | None = None,
) -> str:
    """The command for bash. Optional parts whose references are not all given are left out."""
    values = {"inputs": inputs, "outputs": outputs, "search_space": space or {}}

    def part(match: re.Match[str]) -> str:
        found = _REFERENCE.finditer(match[1])
        return match[1] if all(one[2] in values[one[1]] for one in found) else ""

    return _filled(_OPTIONAL.sub(part, command), values)


def _filled(command: str, values: Mapping[str, Mapping[str, str]]) -> str:
    # `nesting` holds what is open: a double quote, or a `$(`, in which quoting begins anew.
    written: list[str] = []
    nesting: list[str] = []
    single = False
    place = 0
    while place < len(command):
        reference = _REFERENCE.match(command, place)
        double = bool(nesting) and nesting[-1] == '"'
        if reference is not None:
            written.append(_quoted(values[reference[1]][reference[2]], single=single, double=double))
            place = reference.end()
            continue
        char = command[place]
        step = 1
        if single:
            single = char != "'"
        elif char == "\\":
            step = 2
        elif char == "#" and not double and (place == 0 or command[place - 1] in " \t\n;"):
            # An apostrophe in a comment opens nothing.
            end = command.find("\n", place)
            step = (len(command) if end < 0 else end) - place
        elif char == "'" and not double:
            single = True
        elif char == '"':
            nesting.pop() if double else nesting.append('"')
        elif command.startswith("$(", place):
            nesting.append("(")
            step = 2
        elif char == "(" and not double and nesting:
            nesting.append("(")
        elif char == ")" and nesting and nesting[-1] == "(":
            nesting.pop()
        written.append(command[place : place + step])
        place += step
    return "".join(written)


def _quoted(value: str, *, single: bool, double: bool) -> str:
    if single:
        return value.replace("'", "'\\''")
    if double:
        return _IN_DOUBLE.sub(r"\\\1", value)
    return shlex.quote(value)
