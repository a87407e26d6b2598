"""YAML of unknown origin, read safely, with the line of every key.

Nothing is built but plain values; a document whose aliases would multiply it beyond measure is refused before
anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

MAX_BYTES = 4 * 1024 * 1024
MAX_NODES = 100_000
"""Most values that a document may have, aliases counted as often as they are used."""
MAX_DEPTH = 60

Path = Sequence[str | int]


class YamlError(ValueError):
    """A text is no usable YAML; `line` counts from 1."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class Repeated(NamedTuple):
    """A key that a mapping has twice; YAML's readers take the last one."""

    key: str
    line: int


class Document:
    """A document's `value`, and where its parts stand."""

    def __init__(self, text: str) -> None:
        """Raises YamlError."""
        loader = None
        try:
            loader = yaml.SafeLoader(text)
            self._root = loader.get_single_node()
            if self._root is not None:
                _measure(self._root)
            self.repeated = list(_repeated(self._root)) if self._root is not None else []
            self.value: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise YamlError(f"not YAML: {error.problem}", mark.line + 1 if mark else 1) from error
        except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, YamlError):
                raise
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise YamlError(f"not YAML: {reason}") from error
        finally:
            if loader is not None:
                loader.dispose()

    def line(self, path: Path) -> int:
        """The line of a key or list item, or of the nearest one above that is there; counted from 1."""
        node, line = self._root, 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            mark, node = found
            line = mark.line + 1
        return line


def load(raw: bytes) -> Document:
    """The one document of a file's bytes. Raises YamlError."""
    if len(raw) > MAX_BYTES:
        raise YamlError(f"the file is larger than {MAX_BYTES:,} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise YamlError(f"not UTF-8: byte 0x{raw[error.start]:02x}", line) from error
    return Document(text)


def plain(value: Any) -> str:
    """The YAML text of a value, without aliases."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def _measure(root: yaml.Node) -> None:
    """Raises YamlError for a document that is too deep, too large, or contains itself."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        line = node.start_mark.line + 1
        if id(node) in entered:
            raise YamlError("an alias names what it stands in", line)
        if depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} deep", line)
        entered.add(id(node))
        total = 1 + sum(size(child, depth + 1) for child in _children(node))
        entered.discard(id(node))
        if total > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES:,} values, aliases counted as often as used", line)
        sizes[id(node)] = total
        return total

    size(root, 0)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _repeated(root: yaml.Node) -> Iterator[Repeated]:
    seen_nodes: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen_nodes:
            continue
        seen_nodes.add(id(node))
        waiting.extend(_children(node))
        if not isinstance(node, yaml.MappingNode):
            continue
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in keys:
                    yield Repeated(key.value, key.start_mark.line + 1)
                keys.add(key.value)


def _child(node: yaml.Node | None, step: str | int) -> tuple[Any, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        merged = []
        # The last of two equal keys counts.
        for key, value in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key.start_mark, value
            if isinstance(key, yaml.ScalarNode) and key.value == "<<":
                merged.append(value)
        for value in merged:
            found = _child(value, step)
            if found is not None:
                return found
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and 0 <= step < len(node.value):
        return node.value[step].start_mark, node.value[step]
    return None
