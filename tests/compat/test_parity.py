"""The parity table: every operation of the SDK is in it, and every proof that it names is one."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from functools import cache
from pathlib import Path

import pytest

from amlocal.compat import parity
from amlocal.compat.parity import NOT_YET, REFUSED, WORKS, Claim

ROOT = Path(__file__).resolve().parents[2]
PARITY = parity.load()
PAGE = ROOT / "compat" / "PARITY.md"
OPERATIONS = frozenset(
    f"{group}.{method}" for group, methods in parity.operations().items() for method in methods
)
# Besides another operation: what reads an effect on disk, in a process or over the wire.
READERS = frozenset(
    {
        "ask",
        "call",
        "cpu_count",
        "exists",
        "glob",
        "iterdir",
        "post",
        "processes_of",
        "read_text",
        "readouterr",
    }
    | {"get_metric_history", "get_run", "is_file", "rglob", "run"}
)


@cache
def module(path: Path) -> dict[str, ast.AST]:
    """Name -> definition, for everything on the top level of a test file and the methods of its classes."""
    found: dict[str, ast.AST] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def parts(path: Path, name: str) -> tuple[ast.AST, ...]:
    """A test, and what of its own file it uses: helpers, fixtures, tables."""
    names = module(path)
    found, waiting = {}, [name]
    while waiting:
        current = waiting.pop()
        if current in found or current not in names:
            continue
        found[current] = names[current]
        for node in ast.walk(names[current]):
            if isinstance(node, ast.Name):
                waiting.append(node.id)
            elif isinstance(node, ast.arg):
                waiting.append(node.arg)
    return tuple(found.values())


def node_of(test: str) -> tuple[Path, str]:
    """The file and function of a node id; raises AssertionError where there is none."""
    path, _, rest = test.partition("::")
    name = rest.rpartition("::")[2].partition("[")[0]
    assert (ROOT / path).is_file(), f"{test}: there is no file {path}"
    assert name.startswith("test_") and name in module(ROOT / path), f"{test}: there is no such test"
    return ROOT / path, name


def used(nodes: tuple[ast.AST, ...]) -> tuple[set[str], set[str]]:
    """(group.method of MLClient, every name) that `nodes` mention."""
    operations, names = set(), set()
    for top in nodes:
        for node in ast.walk(top):
            if isinstance(node, ast.Name):
                names.add(node.id)
            elif isinstance(node, ast.Attribute):
                names.add(node.attr)
                group = node.value
                of = group.attr if isinstance(group, ast.Attribute) else getattr(group, "id", "")
                operations.add(f"{of}.{node.attr}")
    return operations & OPERATIONS, names


def faults(claim: Claim) -> list[str]:
    """What is wrong with a claim's proofs."""
    wrong = []
    if claim.state == WORKS:
        wrong += [f"no {what}" for what in ("witness", "failing", "effect") if not getattr(claim, what)]
        wrong += ["a code"] if claim.code else []
    elif claim.state == REFUSED:
        wrong += [f"no {what}" for what in ("code", "failing") if not getattr(claim, what)]
    elif claim.witness or claim.failing:
        wrong.append("proofs of what is not there yet")
    for test in (*claim.witness, *claim.failing):
        path, name = node_of(test)
        operations, names = used(parts(path, name))
        if claim.client == "sdk" and claim.operation not in operations:
            wrong.append(f"{test} does not call it")
        if test in claim.witness and not (operations - {claim.operation} or names & READERS):
            wrong.append(f"{test} reads nothing else")
        if test in claim.failing and "raises" not in names and claim.client == "sdk":
            wrong.append(f"{test} expects no failure")
    return wrong


def test_every_operation_is_claimed_once() -> None:
    claimed = [claim.operation for claim in PARITY.of("sdk")]
    assert len(claimed) == len(set(claimed)) and set(claimed) == OPERATIONS
    assert claimed == sorted(claimed)
    assert (len(parity.operations()), len(OPERATIONS)) == (26, 162)
    assert importlib.metadata.version("azure-ai-ml") == PARITY.version


@pytest.mark.parametrize("claim", PARITY.claims, ids=lambda claim: f"{claim.client}-{claim.operation}")
def test_every_proof_is_one(claim: Claim) -> None:
    assert faults(claim) == []


def test_the_page_is_up_to_date() -> None:
    from amlocal.emulator.arm import coverage
    from amlocal.emulator.arm.registry import RESOURCES

    page = PAGE.read_text()
    assert page == coverage.page(PARITY, RESOURCES), "run: make parity"
    working, total, refused, later = map(
        int, re.findall(r"(\d+) of (\d+) work, (\d+) refused by name, (\d+) not there yet", page)[0]
    )
    states = [claim.state for claim in PARITY.of("sdk")]
    assert (working, refused, later) == tuple(states.count(state) for state in (WORKS, REFUSED, NOT_YET))
    assert total == working + refused + later == 162
    for resource in RESOURCES:
        assert f"| {resource.title} | `{resource.path.replace('{}', 'NAME')}` |" in page


SOURCE = """
def _names(client):
    return [m.name for m in client.models.list()]


def test_witness(client):
    client.models.archive("a")
    assert "a" not in _names(client)


def test_alone(client):
    assert client.models.archive("a") is None


def test_other(client):
    assert client.models.restore("a") is None


def test_fails(client):
    with raises(ValueError):
        client.models.archive("b")
"""


@pytest.mark.parametrize(
    ("witness", "failing", "more", "wanted"),
    [
        ("test_witness", "test_fails", {}, []),
        ("test_alone", "test_fails", {}, ["test_alone reads nothing else"]),
        ("test_other", "test_fails", {}, ["test_other does not call it"]),
        ("test_witness", "test_alone", {}, ["test_alone expects no failure"]),
        ("test_witness", "", {}, ["no failing"]),
        ("", "test_fails", {"state": REFUSED}, ["no code"]),
        ("", "test_fails", {"state": REFUSED, "code": "NotImplemented"}, []),
        ("test_witness", "", {"state": NOT_YET}, ["proofs of what is not there yet"]),
    ],
)
def test_what_is_no_proof(
    tmp_path: Path, witness: str, failing: str, more: dict[str, str], wanted: list[str]
) -> None:
    file = tmp_path / "test_proofs.py"
    file.write_text(SOURCE)
    claim = Claim(
        **{
            "operation": "models.archive",
            "state": WORKS,
            "effect": "e",
            "witness": (f"{file}::{witness}",) if witness else (),
            "failing": (f"{file}::{failing}[x]",) if failing else (),
            **more,
        }
    )
    found = [re.sub(r"^.*::(\w+)(\[x\])?", r"\1", fault) for fault in faults(claim)]
    assert found == wanted


@pytest.mark.parametrize(
    "test", ["tests/no_such_file.py::test_a", "tests/compat/test_parity.py::test_no_such"]
)
def test_a_proof_that_does_not_exist(test: str) -> None:
    with pytest.raises(AssertionError, match="there is no"):
        faults(Claim("models.get", WORKS, witness=(test,)))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('state = "perhaps"', "models.get: state 'perhaps'"),
        ('state = "works"\nclient = "portal"', "client 'portal'"),
        ('state = "works"\nwitness = "a"', "witness must be a list"),
        ('state = "works"\nproof = "a"', r"unknown fields \['proof'\]"),
        ('state = "works"\neffect = 1', "effect must be a text"),
    ],
)
def test_a_claim_that_is_not_well_formed(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "parity.toml").write_text(f'version = "1"\n[[claim]]\noperation = "models.get"\n{text}\n')
    with pytest.raises(ValueError, match=wanted):
        parity.load(tmp_path / "parity.toml")


def test_every_difference_is_on_the_page_with_its_reason() -> None:
    page = PAGE.read_text()
    assert len({one.what for one in PARITY.differences}) == len(PARITY.differences) > 0
    for one in PARITY.differences:
        assert f"| {one.what} | {one.azure} | {one.here} | {one.why} |" in page


@pytest.mark.parametrize(
    "text", ['what = "w"\nazure = "a"\nhere = "h"', 'what = "w"\nazure = ""\nhere = "h"\nwhy = "y"']
)
def test_a_difference_without_all_its_texts(tmp_path: Path, text: str) -> None:
    claim = '[[claim]]\noperation = "models.get"\nstate = "not there yet"\n'
    (tmp_path / "parity.toml").write_text(f'version = "1"\n{claim}[[difference]]\n{text}\n')
    with pytest.raises(ValueError, match="w: a difference has the texts azure, here, what, why"):
        parity.load(tmp_path / "parity.toml")
