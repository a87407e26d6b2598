-- Names compare without case, as in Azure: the look-up of one needs an index over its lower-case form.
CREATE INDEX resources_by_lower_name ON resources (workspace_id, kind, lower(name), version);
-- The next sequence of a kind is one more than its largest; without this all documents of it would be read.
CREATE INDEX resources_by_kind ON resources (workspace_id, kind, sequence);
