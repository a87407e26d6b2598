"""A parameter of an AutoML search space as the REST body has it: the text of a distribution or of one value.

Source: what azure-ai-ml sends: choice('a','b'), uniform(0.001,0.01), or a bare value such as True, 5 or
yolov5. Texts stand in single quotes without any escape; numbers are written without an exponent (one is
taken). The grammar:

    text    = call | value
    call    = NAME "(" [ item { "," item } ] ")"
    item    = QUOTED | NUMBER | "True" | "False" | WORD
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from amlocal.emulator.jobs.sampling.space import KINDS, Choice, Distribution, SpaceError, Value, of_numbers

LONGEST = 100_000
"""Most characters that one text may have."""

_CALL = re.compile(r"\s*([A-Za-z_][A-Za-z_0-9]*)\s*\(")
_TOKENS = re.compile(
    r"""(?P<blank>\s+)
      | (?P<quoted>'[^']*'|"[^"]*")
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?(?![A-Za-z0-9_./\-]))
      | (?P<word>[A-Za-z0-9_.][A-Za-z0-9_./\-]*)
      | (?P<mark>[(),])""",
    re.VERBOSE,
)
_BOOLEANS = {"true": True, "false": False}


class _Token(NamedTuple):
    kind: str
    text: str
    start: int


def parse(text: str) -> Distribution:
    """The distribution that a text stands for; one value is a choice of one.

    Raises SpaceError whose position is that of the fault in the text, counted from 0.
    """
    if len(text) > LONGEST:
        raise SpaceError(f"the text is longer than {LONGEST} characters", LONGEST)
    if not text.strip():
        raise SpaceError("the text is empty", 0)
    call = _CALL.match(text)
    if call is None:
        return Choice((_single(text),))
    kind, start = call.group(1).lower(), call.start(1)
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(KINDS)}"
        raise SpaceError(f"{call.group(1)!r} is no distribution; {hint}", start)
    items = _items(text, call.end())
    try:
        if kind == "choice":
            return Choice(tuple(_value(token) for token in items))
        return of_numbers(kind, [_number(kind, token) for token in items])
    except SpaceError as error:
        if error.position is not None:
            raise
        raise SpaceError(error.message, start) from error


def _items(text: str, position: int) -> list[_Token]:
    """The items of a call whose parenthesis was opened just before `position`."""
    items: list[_Token] = []
    tokens = _tokens(text, position)
    at = 0

    def take() -> _Token:
        nonlocal at
        token = tokens[at] if at < len(tokens) else _Token("end", "the end", len(text))
        at += 1
        return token

    token = take()
    if token.text == ")" and token.kind == "mark":
        _end(take())
        return items
    while True:
        if token.kind in ("mark", "end"):
            raise SpaceError(f"a value is expected, not {_named(token)}", token.start)
        items.append(token)
        token = take()
        if token.kind == "mark" and token.text == ")":
            _end(take())
            return items
        if token.kind != "mark" or token.text != ",":
            raise SpaceError(f"',' or ')' is expected, not {_named(token)}", token.start)
        token = take()


def _tokens(text: str, position: int) -> list[_Token]:
    found = []
    while position < len(text):
        match = _TOKENS.match(text, position)
        if match is None:
            sign = text[position]
            if sign in "'\"":
                raise SpaceError("a quotation mark without its partner", position)
            raise SpaceError(f"{sign!r} has no meaning here", position)
        kind = str(match.lastgroup)
        if kind != "blank":
            found.append(_Token(kind, match.group(), position))
        position = match.end()
    return found


def _end(token: _Token) -> None:
    if token.kind != "end":
        raise SpaceError(f"nothing may follow the ')', but there is {_named(token)}", token.start)


def _named(token: _Token) -> str:
    if token.kind == "end":
        return token.text
    return repr(token.text if len(token.text) <= 80 else token.text[:77] + "...")


def _value(token: _Token) -> Value:
    if token.kind == "quoted":
        return token.text[1:-1]
    if token.kind == "number":
        return _numeral(token.text)
    return _BOOLEANS.get(token.text.lower(), token.text)


def _number(kind: str, token: _Token) -> int | float:
    if token.kind != "number":
        raise SpaceError(f"{kind} takes numbers, not {_named(token)}", token.start)
    return _numeral(token.text)


def _numeral(text: str) -> int | float:
    # Python refuses to convert whole numbers of thousands of digits.
    return int(text) if re.fullmatch(r"[+-]?\d{1,300}", text) else float(text)


def _single(text: str) -> Value:
    """A value that stands alone: what is no number and no truth value is text, whatever is in it."""
    bare = text.strip()
    match = _TOKENS.fullmatch(bare)
    kind = match.lastgroup if match else None
    if kind in ("quoted", "number"):
        return _value(_Token(str(kind), bare, 0))
    return _BOOLEANS.get(bare.lower(), bare)
