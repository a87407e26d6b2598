"""The store: one writer, durable commits, savepoints, migrations."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, insert, inspect, select

from amlocal.emulator.store import tables
from amlocal.emulator.store.database import SchemaError, Store, migrate
from amlocal.emulator.store.writer import TransactionLost


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path / "db")
    yield store
    store.close()


def operation(identity: str):
    return insert(tables.operations).values(id=identity, status="Running", target="", created_at="now")


def count(store: Store) -> int:
    return store.read(lambda c: c.execute(select(func.count()).select_from(tables.operations)).scalar_one())


def test_tables_match_migrations(tmp_path: Path) -> None:
    migrate(tmp_path / "db")
    inspector = inspect(create_engine(f"sqlite:///{tmp_path / 'db'}"))
    assert set(inspector.get_table_names()) - {"sqlite_sequence"} == set(tables.metadata.tables)
    for name, table in tables.metadata.tables.items():
        found = {column["name"]: bool(column["nullable"]) for column in inspector.get_columns(name)}
        keys = set(inspector.get_pk_constraint(name)["constrained_columns"])
        assert set(found) == set(table.columns.keys()), name
        assert keys == {column.name for column in table.primary_key}, name


def test_pragmas(store: Store) -> None:
    assert store.read(lambda c: c.exec_driver_sql("PRAGMA journal_mode").scalar_one()) == "wal"
    assert store.read(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar_one()) == 2
    assert store.write(lambda c: c.exec_driver_sql("PRAGMA synchronous").scalar_one()) == 2


def test_concurrent_writes_all_land(store: Store) -> None:
    def work(worker: int) -> None:
        for number in range(25):
            store.write(lambda c, n=number: c.execute(operation(f"{worker}-{n}")))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(store) == 200


def test_a_failed_write_is_rolled_back_alone(store: Store) -> None:
    def bad(connection) -> None:
        connection.execute(operation("half"))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.write(bad)
    store.write(lambda c: c.execute(operation("whole")))
    assert count(store) == 1


def test_reads_do_not_wait_for_a_write(store: Store) -> None:
    inside, release = threading.Event(), threading.Event()

    def slow(connection) -> None:
        connection.execute(operation("a"))
        inside.set()
        assert release.wait(10)

    writer = threading.Thread(target=store.write, args=(slow,))
    writer.start()
    assert inside.wait(10)
    assert count(store) == 0
    release.set()
    writer.join()
    assert count(store) == 1


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    migrate(tmp_path / "db")
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.execute("PRAGMA user_version=999")
    with pytest.raises(SchemaError, match="schema 999"):
        migrate(tmp_path / "db")


def test_a_transaction_that_the_database_took_back_is_acknowledged_to_nobody(store: Store) -> None:
    """As SQLite does at a full disk: writes that shared the commit must not be told that they are stored."""
    inside, release = threading.Event(), threading.Event()

    def slow(connection) -> None:
        inside.set()
        assert release.wait(10)

    def taken_back(connection) -> None:
        connection.execute(operation("third"))
        connection.connection.driver_connection.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    outcomes: dict[str, BaseException | None] = {}

    def write(name: str, function) -> None:
        try:
            store.write(function)
            outcomes[name] = None
        except Exception as error:
            outcomes[name] = error

    threads = [threading.Thread(target=write, args=("slow", slow))]
    threads[0].start()
    assert inside.wait(10)
    functions = {
        "first": lambda c: c.execute(operation("first")),
        "taken back": taken_back,
        "second": lambda c: c.execute(operation("second")),
    }
    for number, (name, function) in enumerate(functions.items(), 1):
        threads.append(threading.Thread(target=write, args=(name, function)))
        threads[-1].start()
        while store._writer._queue.qsize() < number:
            pass
    release.set()
    for thread in threads:
        thread.join(10)
    assert outcomes["slow"] is None
    assert all(isinstance(outcomes[name], TransactionLost) for name in functions), outcomes
    assert count(store) == 0
    store.write(lambda c: c.execute(operation("fourth")))
    assert count(store) == 1
    with pytest.raises(TransactionLost):
        store.write(lambda c: c.connection.driver_connection.execute("ROLLBACK"))


def test_what_is_remembered_is_read_again_after_a_write(store: Store) -> None:
    asked = []

    def read(connection):
        asked.append(1)
        return connection.execute(select(func.count()).select_from(tables.operations)).scalar_one()

    assert [store.remembered(("count",), read) for _ in range(3)] == [0, 0, 0]
    assert len(asked) == 1
    store.write(lambda c: c.execute(operation("a")))
    assert [store.remembered(("count",), read) for _ in range(3)] == [1, 1, 1]
    assert len(asked) == 2
    assert store.remembered(("other",), lambda c: None) is None


def test_a_write_during_a_read_makes_it_old(store: Store) -> None:
    def read_late(connection):
        before = connection.execute(select(func.count()).select_from(tables.operations)).scalar_one()
        store.write(lambda c: c.execute(operation("meanwhile")))
        return before

    assert store.remembered(("count",), read_late) == 0
    assert store.remembered(("count",), lambda c: 7) == 7
