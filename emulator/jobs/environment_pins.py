"""What a conda file asks for: a version of Python, packages by conda and by pip, and what cannot be compared.

Sources: conda's match specifications (https://docs.conda.io/projects/conda/en/stable/user-guide/concepts/pkg-specs.html),
pip's requirement lines (https://pip.pypa.io/en/stable/reference/requirements-file-format/).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

MOST_BYTES = 128 * 1024
MOST_PACKAGES = 1000
_MOST_LINE = 2000
_DEEPEST = 12

_SPEC = re.compile(
    r"(?:[^\s:\[\]=<>]+::)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)\s*(?P<rest>[^\[\]]*)(?P<more>\[.*\])?"
)
_BRACKET_VERSION = re.compile(r"""\bversion\s*=\s*(?:'([^']*)'|"([^"]*)"|([^,\]\s]+))""")
_CONDITION = re.compile(r"(===|==|!=|>=|<=|~=|=|>|<)?\s*([0-9][A-Za-z0-9_.+!*-]*)")
_CREDENTIALS = re.compile(r"(://)[^/@\s]+@")

# conda packages that are another name on PyPI, as conda-forge and the pytorch channel publish them.
_ON_PYPI = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "pytorch-gpu": "torch",
    "matplotlib-base": "matplotlib",
    "opencv": "opencv-python",
    "py-opencv": "opencv-python",
    "dask-core": "dask",
    "pytables": "tables",
}
# conda packages that are no Python packages: no interpreter can tell whether they are there.
_NO_PYTHON = re.compile(
    r"(?:_.*|lib.*|r|r-.*|cuda.*|cudnn|cudatoolkit|nccl|pytorch-cuda|pytorch-mutex|mkl|openmpi|mpich|"
    r"gcc.*|gxx.*|ffmpeg|git|cmake|make|nodejs|openssl|ca-certificates|blas|openblas|openjdk)"
)
# Tags of curated environments that name a version, and the package on PyPI whose version it is.
_TAGS = {
    "Python": "python",
    "Scikit-learn": "scikit-learn",
    "PyTorch": "torch",
    "Tensorflow": "tensorflow",
    "LightGBM": "lightgbm",
}


class CondaFileError(ValueError):
    """The text is no conda file; the message says where and why."""


@dataclass(frozen=True)
class Wanted:
    """A package and the versions that will do: those of any of `allowed`; empty means every version.

    `text` is the wish as written; a pip line's `requirement` says by its marker for which Pythons it holds.
    """

    package: str
    text: str
    allowed: tuple[SpecifierSet, ...] = ()
    requirement: Requirement | None = None

    def accepts(self, version: str) -> bool:
        """Whether an installed version will do; one that is no PEP 440 version does only for any version."""
        from packaging.version import InvalidVersion, Version

        if not self.allowed:
            return True
        try:
            parsed = Version(version)
        except InvalidVersion:
            return False
        return any(allowed.contains(parsed, prereleases=True) for allowed in self.allowed)


@dataclass(frozen=True)
class Pins:
    """A conda file as read. `conda` holds its packages but Python and pip; `pip_lines` go to pip as they are.

    `not_compared` are the lines that say nothing about an installed version, without any credentials.
    """

    python: Wanted | None = None
    conda: tuple[Wanted, ...] = ()
    pip: tuple[Wanted, ...] = ()
    not_compared: tuple[str, ...] = ()
    pip_lines: tuple[str, ...] = ()

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """pip lines that point at files beside the conda file, which no service ever gets."""
        return tuple(line for line in self.pip_lines if _points_at_file(line))


def normalised(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def without_credentials(text: str) -> str:
    """`text` for logs and records: user and password of its URLs are left out."""
    return _CREDENTIALS.sub(r"\1****@", text)


def read(text: str) -> Pins:
    """The wishes of a conda file. Raises CondaFileError naming the line or the field."""
    body = _load(text)
    for name in ("channels", "dependencies"):
        if body.get(name) is not None and not isinstance(body[name], list):
            raise CondaFileError(f"`{name}` must be a list, not {_shown(body[name])}")
    dependencies = body.get("dependencies") or []
    if len(dependencies) > MOST_PACKAGES:
        raise CondaFileError(
            f"`dependencies` has {len(dependencies)} entries; at most {MOST_PACKAGES} are read"
        )
    python: Wanted | None = None
    conda: list[Wanted] = []
    pip: list[Wanted] = []
    not_compared: list[str] = []
    lines: list[str] = []
    for index, entry in enumerate(dependencies):
        place = f"`dependencies[{index}]`"
        if isinstance(entry, dict):
            lines += _pip_part(entry, place)
            continue
        if not isinstance(entry, str) or not entry.strip():
            raise CondaFileError(f"{place} must be a package such as numpy=1.26, not {_shown(entry)}")
        wanted = _conda_wish(entry.strip(), place)
        if wanted is None:
            not_compared.append(without_credentials(entry.strip()))
        elif wanted.package == "python":
            python = wanted
        elif wanted.package == "pip":
            pip.append(wanted)
        else:
            conda.append(wanted)
    for line in lines:
        found = _pip_wish(line)
        if found is None:
            not_compared.append(without_credentials(line))
        else:
            pip.append(found)
    return Pins(python, tuple(conda), tuple(pip), tuple(not_compared), tuple(lines))


def of_tags(tags: Mapping[str, str]) -> Pins:
    """What Azure's tags tell about a curated environment: Python and the one package that it is for."""
    from packaging.specifiers import SpecifierSet

    found = [
        Wanted(package, f"={tags[tag]}", (SpecifierSet(f"=={tags[tag]}.*"),))
        for tag, package in _TAGS.items()
        if re.fullmatch(r"[0-9]+(\.[0-9]+)*", tags.get(tag, ""))
    ]
    python = next((wanted for wanted in found if wanted.package == "python"), None)
    return Pins(python, tuple(wanted for wanted in found if wanted.package != "python"))


def _load(text: str) -> Mapping[str, Any]:
    import yaml

    size = len(text.encode())
    if size > MOST_BYTES:
        raise CondaFileError(f"it has {size} bytes; at most {MOST_BYTES} are read")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        # Before anything is put together: aliases can grow a few lines into more than a memory holds.
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark is not None else 0
            if isinstance(event, yaml.AliasEvent):
                raise CondaFileError(f"line {line} has an alias (*{event.anchor}); write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise CondaFileError(f"line {line} is nested too deeply")
        body = yaml.load(text, Loader=loader)  # noqa: S506  # a safe loader, see above
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise CondaFileError(f"it is not YAML: {where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, CondaFileError):
            raise
        raise CondaFileError(f"it is not YAML: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise CondaFileError(f"it must be a mapping with `dependencies`, not {_shown(body)}")
    return body


def _pip_part(entry: Mapping[Any, Any], place: str) -> Iterable[str]:
    if set(entry) != {"pip"}:
        names = ", ".join(str(name)[:50] for name in entry)
        raise CondaFileError(f"{place} is a mapping of {names}; only `pip:` can be one")
    lines = entry["pip"]
    if lines is None:
        return
    if not isinstance(lines, list):
        raise CondaFileError(f"{place}.pip must be a list, not {_shown(lines)}")
    if len(lines) > MOST_PACKAGES:
        raise CondaFileError(f"{place}.pip has {len(lines)} entries; at most {MOST_PACKAGES} are read")
    for number, line in enumerate(lines):
        if not isinstance(line, str) or len(line) > _MOST_LINE or not line.isprintable():
            raise CondaFileError(
                f"{place}.pip[{number}] must be one requirement such as numpy==1.26.4, not {_shown(line)}"
            )
        # As pip: a comment stands alone or follows a blank.
        cleaned = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if cleaned:
            yield cleaned


def _conda_wish(entry: str, place: str) -> Wanted | None:
    """The wish of one conda line; None where no interpreter can tell (URLs, programs in other languages)."""
    if "://" in entry:
        return None
    match = _SPEC.fullmatch(entry)
    if match is None:
        raise CondaFileError(f"{place} is no package such as numpy=1.26: {_shown(entry)}")
    name = match["name"].lower()
    if _NO_PYTHON.fullmatch(name):
        return None
    rest = match["rest"].strip()
    bracket = _BRACKET_VERSION.search(match["more"] or "")
    if bracket is not None:
        rest = next(part for part in bracket.groups() if part is not None).strip()
    allowed = _conda_versions(rest)
    if allowed is None:
        return None
    return Wanted(_ON_PYPI.get(name, name), rest, allowed)


def _conda_versions(rest: str) -> tuple[SpecifierSet, ...] | None:
    """conda's version part as PEP 440: `=1.2` is every 1.2.x, `|` is or; None if it cannot be."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if rest in ("", "*", "=*"):
        return ()
    fuzzy = re.fullmatch(r"=([^=<>!~,|\s]+)(?:=\S+)?", rest)
    exact = re.fullmatch(r"(?:==)?([0-9][^=<>!~,|\s]*)(?:[=\s]\S+)?", rest)
    try:
        if fuzzy is not None:
            return (SpecifierSet(f"=={_bare(fuzzy[1])}.*"),)
        if exact is not None:
            star = ".*" if exact[1].endswith("*") else ""
            return (SpecifierSet(f"=={_bare(exact[1])}{star}"),)
        return tuple(SpecifierSet(",".join(map(_condition, part.split(",")))) for part in rest.split("|"))
    except InvalidSpecifier:
        return None


def _bare(version: str) -> str:
    return version.removesuffix("*").removesuffix(".")


def _condition(text: str) -> str:
    """One of the conditions between commas."""
    from packaging.specifiers import InvalidSpecifier

    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise InvalidSpecifier(text)
    operator, version = match[1] or "==", match[2]
    if operator in ("=", "==", "!=") and (version.endswith("*") or operator == "="):
        return f"{'!=' if operator == '!=' else '=='}{_bare(version)}.*"
    return f"{operator}{_bare(version)}"


def _pip_wish(line: str) -> Wanted | None:
    """The wish of one pip line; None for options, files and URLs."""
    from packaging.requirements import InvalidRequirement, Requirement

    if line.startswith("-"):
        return None
    try:
        # Options of one requirement (--hash, --config-settings) follow it.
        requirement = Requirement(re.split(r"\s--?[a-z]", line, maxsplit=1)[0])
    except InvalidRequirement:
        return None
    if requirement.url is not None:
        return None
    allowed = (requirement.specifier,) if requirement.specifier else ()
    return Wanted(requirement.name, str(requirement.specifier), allowed, requirement)


def _points_at_file(line: str) -> bool:
    if re.match(r"-[rce]|--(?:requirement|constraint|editable)\b", line):
        return "://" not in line
    return line.startswith((".", "/", "~", "file:"))


def _shown(value: object) -> str:
    text = without_credentials(repr(value)[:300])
    return text if len(text) <= 80 else text[:77] + "..."
