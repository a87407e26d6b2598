"""Lists over many documents: constant numbers of queries, exact pages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, insert

from amlocal.emulator.arm import documents
from amlocal.emulator.store import tables
from amlocal.emulator.store.database import Store
from amlocal.emulator.store.entries import Entry

NAMES = 2_500
WORKSPACE = {
    "id": "w",
    "subscription": "s",
    "resource_group": "g",
    "name": "n",
    "key": "s/g/n",
    "account": "a",
    "body": "{}",
    "created_at": "2026-01-01",
}
VERSIONS = 4  # of each name: 10,000 documents


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("many") / "amlocal.db")
    rows = [
        {
            "workspace_id": "w",
            "kind": "data",
            "name": f"name-{number // VERSIONS:05d}",
            "version": str(number % VERSIONS + 1),
            "body": json.dumps({"properties": {"tags": {"n": str(number % 10), 'q"': "x"}}}),
            "etag": f'"{number}"',
            "archived": number < 4 or number % VERSIONS == 3,
            "created_at": "2026-01-01",
            "modified_at": "2026-01-01",
            "sequence": number + 1,
        }
        for number in range(NAMES * VERSIONS)
    ]
    store.write(lambda c: c.execute(insert(tables.workspaces).values(WORKSPACE)))
    store.write(lambda c: c.execute(insert(tables.resources), rows))
    yield store
    store.close()


def test_pages_of_names_are_exact_and_cheap(store: Store) -> None:
    queries: list[str] = []

    def page(c: Connection, skip: int) -> list[tuple[str, str, str]]:
        event.listen(c, "before_cursor_execute", lambda *arguments: queries.append(arguments[2]))
        found = documents.latest_of_each(c, "w", "data", skip=skip, limit=200)
        following = documents.next_versions(c, "w", "data", [d.name for d in found])
        return [(d.name, d.version, following[d.name]) for d in found]

    seen = []
    started = time.monotonic()
    pages = 0
    while True:
        found = store.read(lambda c: page(c, len(seen)))
        pages += 1
        if not found:
            break
        seen.extend(found)
    assert seen == [(f"name-{number:05d}", "3", "5") for number in range(1, NAMES)]
    assert len(queries) == 2 * pages
    assert (time.monotonic() - started) / pages < 1.0


def test_archived_names_are_those_without_an_active_version(store: Store) -> None:
    found = store.read(lambda c: documents.latest_of_each(c, "w", "data", view="ArchivedOnly", limit=10))
    assert [(d.name, d.version) for d in found] == [("name-00000", "4")]


def test_deep_pages_and_filters_of_versions(store: Store) -> None:
    last = store.read(lambda c: documents.listing(c, "w", "data", view="All", skip=9_998, limit=10))
    assert [d.sequence for d in last] == [9_999, 10_000]
    wanted = [Entry("$.properties.tags", "n", "7"), Entry("$.properties.tags", 'q"', None)]
    found = store.read(lambda c: documents.listing(c, "w", "data", view="All", entries=wanted))
    assert len(found) == 1_000 and {d.properties["tags"]["n"] for d in found} == {"7"}
    none = store.read(
        lambda c: documents.listing(c, "w", "data", entries=[Entry("$.properties.tags", "' OR 1=1 --", None)])
    )
    assert none == []


def test_next_version_counts_whole_numbers_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "amlocal.db")
    store.write(lambda c: c.execute(insert(tables.workspaces).values(WORKSPACE)))
    for version in ("2", "10", "2024-01-01", "9" * 40, "v99"):
        store.write(lambda c, v=version: documents.put(c, "w", "data", "Mixed", v, {"properties": {}}))
    found = store.read(lambda c: documents.next_versions(c, "w", "data", ["mixed", "absent"]))
    assert found == {"mixed": "11", "absent": "1"}
    stored, created = store.write(lambda c: documents.put(c, "w", "data", "MIXED", "11", {"properties": {}}))
    assert (stored.name, created) == ("Mixed", True)
    assert store.write(lambda c: documents.set_archived(c, "w", "data", "mixed", True)) == 6
    assert store.write(lambda c: documents.set_archived(c, "w", "data", "mixed", True)) == 0
    newest = store.read(lambda c: documents.latest(c, "w", "data", "mixed"))
    assert newest is not None and newest.archived and newest.etag != stored.etag
    store.close()
