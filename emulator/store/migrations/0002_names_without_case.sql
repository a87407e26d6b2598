-- Names compare without case, as in Azure: the look-up of one needs an index over its lower-case form.
CREATE INDEX resources_by_lower_name ON resources (workspace_id, kind, lower(name), version);
