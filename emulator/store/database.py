"""The database: SQLite in WAL with synchronous=FULL, one writer, any number of readers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from importlib import resources as package_files
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import QueuePool

from amlocal.emulator.store.writer import Writer

T = TypeVar("T")
_REMEMBERED = 2048


class SchemaError(RuntimeError):
    """The data folder was written by a newer amlocal than this one."""


def migrations() -> list[tuple[int, str]]:
    """(schema number, SQL) in ascending order."""
    found = []
    for entry in package_files.files("amlocal.emulator.store").joinpath("migrations").iterdir():
        if entry.name.endswith(".sql"):
            found.append((int(entry.name.split("_")[0]), entry.read_text(encoding="utf-8")))
    return sorted(found)


def migrate(path: Path) -> int:
    """Bring the database to the newest schema, each step in one transaction; returns the schema number."""
    steps = migrations()
    newest = steps[-1][0]
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        current = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if current > newest:
            raise SchemaError(
                f"{path} has schema {current}; this amlocal knows up to {newest}. "
                "Use the amlocal that wrote it or a newer one."
            )
        for number, sql in steps:
            if number > current:
                connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;")
        return newest
    finally:
        connection.close()


class Store:
    """Reads and writes. Functions get a SQLAlchemy Connection inside a transaction."""

    def __init__(self, path: Path) -> None:
        migrate(path)
        self._engine = create_engine(
            f"sqlite:///{path}",
            poolclass=QueuePool,
            pool_size=8,
            max_overflow=64,
            connect_args={"check_same_thread": False, "timeout": 30},
        )

        @event.listens_for(self._engine, "connect")
        def _configure(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions are begun by us, below
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")

        @event.listens_for(self._engine, "begin")
        def _begin(connection: Connection) -> None:
            immediate = connection.get_execution_options().get("amlocal_write")
            # Straight to the driver: SQLAlchemy's own way costs more than the statement.
            connection.connection.driver_connection.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")  # type: ignore[union-attr]

        self._known: dict[tuple[str, ...], tuple[int, Any]] = {}
        self._writer = Writer(self._engine.execution_options(amlocal_write=True))

    def write(self, function: Callable[[Connection], T]) -> T:
        """The result of `function` once its changes are durable."""
        return self._writer.run(function)

    def read(self, function: Callable[[Connection], T]) -> T:
        """The result of `function` on one consistent view."""
        with self._engine.connect() as connection, connection.begin():
            return function(connection)

    def remembered(self, key: tuple[str, ...], function: Callable[[Connection], T]) -> T:
        """As `read`, but asked again only after a write: this process alone writes, so it knows of all.

        `key` says what is read; the result is shared and must not be changed. Clients that wait for something
        ask for the same again and again.
        """
        commits = self._writer.commits
        known = self._known.get(key)
        if known is not None and known[0] == commits:
            value: T = known[1]
            return value
        value = self.read(function)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        # With the count from before the read: a write since then makes it old at once.
        self._known[key] = (commits, value)
        return value

    def close(self) -> None:
        self._writer.close()
        self._engine.dispose()
