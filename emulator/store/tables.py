"""The tables, as SQLAlchemy sees them. Their SQL stands in `migrations/`; a test compares the two."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Integer, MetaData, Table, Text

metadata = MetaData()

# A workspace of a user's own names. `key` is the lower-cased triple, `account` its storage account.
workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Text, primary_key=True),
    Column("subscription", Text, nullable=False),
    Column("resource_group", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

# Every ARM resource that is a document: `kind` is its path segment(s), `version` is '' when it has none.
resources = Table(
    "resources",
    metadata,
    Column("workspace_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("archived", Boolean, nullable=False, default=False),
    Column("created_at", Text, nullable=False),
    Column("modified_at", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
)

# A job or a run below one (sweep, trial). `body` is the ARM `properties` as submitted.
jobs = Table(
    "jobs",
    metadata,
    Column("workspace_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("parent", Text),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("experiment", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("compute", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("error", Text),
    Column("attempt", Integer, nullable=False, default=0),
    Column("archived", Boolean, nullable=False, default=False),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("created_at", Text, nullable=False),
    Column("started_at", Text),
    Column("ended_at", Text),
    Column("sequence", Integer, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("workspace_id", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("why", Text, nullable=False, default=""),
)

# Long-running operations: polled by clients until `status` is terminal.
operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("error", Text),
    Column("created_at", Text, nullable=False),
)
