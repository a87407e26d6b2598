"""Expressions of Resource Manager templates: `[if(equals(parameters('kind'), 'hub'), ...)]`.

The functions are those that decide what a workspace's template makes; any other is refused by its name.
Everything is bounded, since a template comes from a client: depth, length of a text, number of steps.
Source: Azure Resource Manager's template functions and the syntax of its expressions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from amlocal.emulator.http.errors import AzureError, bad_request

_DEPTH = 40
_STEPS = 20_000
_LONGEST = 24_576
_MOST_MADE = 4 * 1024**2
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>-?\d{1,15})|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>[(),.\[\]]))"
)
Node = tuple[Any, ...]


class Scope:
    """The values that a template's expressions see. `parameters` and `variables` by lower-case name."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        variables: Mapping[str, Any],
        subscription: Mapping[str, Any],
        group: Mapping[str, Any],
    ) -> None:
        self._parameters = parameters
        self._variables = variables
        self._subscription = subscription
        self._group = group
        self._steps = 0
        self._made = 0

    def value(self, given: Any, depth: int = 0) -> Any:
        """`given` with every expression in it replaced by its value. Raises 400 (InvalidTemplate)."""
        self._count(depth)
        if isinstance(given, dict):
            return {key: self.value(inner, depth + 1) for key, inner in given.items()}
        if isinstance(given, list):
            return [self.value(inner, depth + 1) for inner in given]
        if not isinstance(given, str) or not (given.startswith("[") and given.endswith("]")):
            return given
        if given.startswith("[["):
            return given[1:]
        if len(given) > _LONGEST:
            raise invalid(f"An expression is longer than {_LONGEST} characters.")
        return self._evaluate(_Parser(given[1:-1]).whole(), depth + 1)

    def _count(self, depth: int) -> None:
        self._steps += 1
        if self._steps > _STEPS or depth > _DEPTH:
            raise invalid("The template's expressions are too deep or too many, or refer to themselves.")

    def _evaluate(self, node: Node, depth: int) -> Any:
        self._count(depth)
        kind = node[0]
        if kind == "value":
            return node[1]
        if kind == "member":
            whole, key = self._evaluate(node[1], depth + 1), self._evaluate(node[2], depth + 1)
            try:
                return whole[key]
            except (KeyError, IndexError, TypeError) as error:
                raise invalid(f"An expression asks for {str(key)[:60]!r}, which is not there.") from error
        name, arguments = node[1], node[2]

        def argument(number: int) -> Any:
            if number >= len(arguments):
                raise invalid(f"The function {name!r} of an expression lacks an argument.")
            return self._evaluate(arguments[number], depth + 1)

        # Those that do not look at all of their arguments, as in Azure.
        if name == "if":
            return argument(1) if _truth(argument(0)) else argument(2)
        if name == "and":
            return all(_truth(argument(number)) for number in range(len(arguments)))
        if name == "or":
            return any(_truth(argument(number)) for number in range(len(arguments)))
        if name in ("parameters", "variables"):
            values = self._parameters if name == "parameters" else self._variables
            key = str(argument(0)).lower()
            if key not in values:
                raise invalid(f"An expression names {key[:60]!r}, which is not among the template's {name}.")
            return self.value(values[key], depth + 1)
        if name == "subscription":
            return dict(self._subscription)
        if name == "resourcegroup":
            return dict(self._group)
        found = [argument(number) for number in range(len(arguments))]
        if name == "resourceid":
            return self._resource_id(found)
        function = _PURE.get(name)
        if function is None:
            raise invalid(f"amlocal does not know the function {name[:60]!r} of template expressions.")
        try:
            value = function(*found)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise invalid(f"The function {name!r} of an expression has wrong arguments.") from error
        if isinstance(value, str | list):
            self._made += len(value)
            if len(value) > _LONGEST or self._made > _MOST_MADE:
                raise invalid(f"An expression's value is longer than {_LONGEST}.")
        return value

    def _resource_id(self, parts: list[Any]) -> str:
        """`resourceId([subscription], [group], 'Provider/type/subtype', 'name', 'subname')`."""
        texts = [str(part) for part in parts]
        at = next((index for index, text in enumerate(texts[:3]) if "/" in text), None)
        if at is None:
            raise invalid("resourceId of an expression lacks the resource's type.")
        subscription = texts[at - 2] if at == 2 else str(self._subscription["subscriptionId"])
        group = texts[at - 1] if at else str(self._group["name"])
        provider, *types = texts[at].split("/")
        names = texts[at + 1 :]
        if len(types) != len(names):
            raise invalid(f"resourceId of an expression has {len(names)} names for {len(types)} types.")
        below = "/".join(f"{kind}/{name}" for kind, name in zip(types, names, strict=True))
        return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{provider}/{below}"


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._token: tuple[str, str] = ("", "")
        self._next()

    def whole(self) -> Node:
        node = self._expression(0)
        if self._token[0] != "end":
            raise self._wrong()
        return node

    def _next(self) -> None:
        if not self._text[self._at :].strip():
            self._token = ("end", "")
            return
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._wrong()
        self._at = match.end()
        kind = str(match.lastgroup)
        self._token = (kind, match.group(kind))

    def _wrong(self) -> AzureError:
        return invalid(f"The expression [{self._text[:100]}] is not well-formed near character {self._at}.")

    def _take(self, sign: str) -> None:
        if self._token != ("sign", sign):
            raise self._wrong()
        self._next()

    def _expression(self, depth: int) -> Node:
        if depth > _DEPTH:
            raise invalid("An expression is nested too deeply.")
        kind, text = self._token
        node: Node
        if kind == "text":
            self._next()
            node = ("value", text[1:-1].replace("''", "'"))
        elif kind == "number":
            self._next()
            node = ("value", int(text))
        elif kind == "name":
            self._next()
            node = ("call", text.lower(), self._arguments(depth))
        else:
            raise self._wrong()
        while self._token in (("sign", "."), ("sign", "[")):
            dotted = self._token[1] == "."
            self._next()
            if dotted:
                if self._token[0] != "name":
                    raise self._wrong()
                node = ("member", node, ("value", self._token[1]))
                self._next()
            else:
                node = ("member", node, self._expression(depth + 1))
                self._take("]")
        return node

    def _arguments(self, depth: int) -> tuple[Node, ...]:
        self._take("(")
        found: list[Node] = []
        if self._token != ("sign", ")"):
            found.append(self._expression(depth + 1))
            while self._token == ("sign", ","):
                self._next()
                found.append(self._expression(depth + 1))
        self._take(")")
        return tuple(found)


def invalid(message: str) -> AzureError:
    """400 for a template that Resource Manager would refuse."""
    return bad_request("InvalidTemplate", message, target="template")


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise invalid(f"A condition of the template is {str(value)[:60]!r}, neither true nor false.")


def _concat(*parts: Any) -> Any:
    if parts and isinstance(parts[0], list):
        return [item for part in parts for item in part]
    return "".join(str(part) for part in parts)


def _equals(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


_PURE: Mapping[str, Callable[..., Any]] = {
    "array": lambda value: value if isinstance(value, list) else [value],
    "bool": _truth,
    "concat": _concat,
    "empty": lambda value: value is None or len(value) == 0,
    "equals": _equals,
    "json": lambda text: json.loads(text),
    "not": lambda value: not _truth(value),
    "string": lambda value: value if isinstance(value, str) else json.dumps(value),
    "tolower": lambda text: text.lower(),
    "toupper": lambda text: text.upper(),
}
