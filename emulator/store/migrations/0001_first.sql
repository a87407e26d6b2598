CREATE TABLE workspaces (
    id TEXT PRIMARY KEY,
    subscription TEXT NOT NULL,
    resource_group TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE resources (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL DEFAULT '',
    body TEXT NOT NULL,
    etag TEXT NOT NULL,
    archived INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    modified_at TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, kind, name, version)
);
CREATE INDEX resources_by_sequence ON resources (workspace_id, kind, name, sequence);
CREATE TABLE jobs (
    workspace_id TEXT NOT NULL REFERENCES workspaces (id),
    name TEXT NOT NULL,
    parent TEXT,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    experiment TEXT NOT NULL,
    display_name TEXT NOT NULL,
    compute TEXT NOT NULL,
    body TEXT NOT NULL,
    tags TEXT NOT NULL,
    properties TEXT NOT NULL,
    error TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    archived INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL,
    started_at TEXT,
    ended_at TEXT,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (workspace_id, name)
);
CREATE INDEX jobs_by_state ON jobs (state, sequence);
CREATE INDEX jobs_by_parent ON jobs (workspace_id, parent, sequence);
CREATE TABLE transitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workspace_id TEXT NOT NULL,
    job TEXT NOT NULL,
    state TEXT NOT NULL,
    at TEXT NOT NULL,
    why TEXT NOT NULL DEFAULT ''
);
CREATE INDEX transitions_by_job ON transitions (workspace_id, job, id);
CREATE TABLE operations (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    target TEXT NOT NULL,
    error TEXT,
    created_at TEXT NOT NULL
);
