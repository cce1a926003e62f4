-- The name of the caller. Empty if the settings named no callers.
ALTER TABLE writes ADD COLUMN caller TEXT NOT NULL DEFAULT '';

-- Two callers may use the same request_id.
DROP INDEX writes_with_request;
CREATE UNIQUE INDEX writes_with_request ON writes (request_id, app_id, method, caller);
