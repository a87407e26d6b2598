"""The router's side of the route table: read again whenever the file has been replaced."""

from __future__ import annotations

import logging
from pathlib import Path

from amlocal.emulator.endpoints.route_table import RouteTable

log = logging.getLogger("amlocal.router")


class TableReader:
    """The newest good table in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._table = RouteTable()

    def current(self) -> tuple[RouteTable, bool]:
        """The table, and whether it is another one than at the last call."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            changed = self._seen is not None
            self._seen, self._table = None, RouteTable()
            return self._table, changed
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return self._table, False
        self._seen = seen
        try:
            self._table = RouteTable.parse(self._path.read_text())
        except ValueError as error:
            # Requests go on with the last good table.
            log.error("%s: %s", self._path, error)
            return self._table, False
        log.info("route table version %d", self._table.version)
        return self._table, True
