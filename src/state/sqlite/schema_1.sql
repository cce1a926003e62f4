-- Times are milliseconds since 1970, except `event_time`. States and kinds are the contract's
-- numbers.

-- One row.
CREATE TABLE log (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  epoch INTEGER NOT NULL,
  newest INTEGER NOT NULL,
  newest_key BLOB NOT NULL,
  pruned INTEGER NOT NULL,
  pruned_key BLOB NOT NULL,
  probes INTEGER NOT NULL
) STRICT;

INSERT INTO log VALUES (1, random(), 0, zeroblob(32), 0, zeroblob(32), 0);

CREATE TABLE events (
  position INTEGER PRIMARY KEY,
  key BLOB NOT NULL UNIQUE,
  event_id TEXT NOT NULL,
  app_id TEXT NOT NULL,
  kind INTEGER NOT NULL,
  audit_id TEXT NOT NULL,
  -- No foreign key: a submission may be forgotten before its events.
  submission_id TEXT,
  state INTEGER NOT NULL,
  -- Whether `state` is the result of a review.
  decided INTEGER NOT NULL,
  pushed INTEGER NOT NULL,
  reason TEXT NOT NULL,
  poi_id TEXT NOT NULL,
  map_poi_id TEXT NOT NULL,
  -- In seconds.
  event_time INTEGER NOT NULL,
  received INTEGER NOT NULL,
  amends TEXT NOT NULL,
  superseded_by TEXT NOT NULL,
  message BLOB NOT NULL
) STRICT;

CREATE INDEX events_of_review ON events (app_id, kind, audit_id);
CREATE INDEX events_of_submission ON events (submission_id) WHERE submission_id IS NOT NULL;

CREATE TABLE submissions (
  -- A number is never used again.
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  submission_id TEXT NOT NULL UNIQUE,
  app_id TEXT NOT NULL,
  kind INTEGER NOT NULL,
  audit_id TEXT NOT NULL,
  poi_id TEXT NOT NULL,
  map_poi_id TEXT NOT NULL,
  client_reference TEXT NOT NULL,
  state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  event_id TEXT NOT NULL,
  created INTEGER NOT NULL,
  -- When it was decided. 0 while it is open. A file keeps the column names that it was made with, so
  -- this name and `sought` stay.
  settled INTEGER NOT NULL,
  -- When WeChat must be polled.
  ask_at INTEGER,
  message BLOB NOT NULL
) STRICT;

CREATE INDEX submissions_of_review ON submissions (app_id, kind, audit_id);
CREATE INDEX submissions_of_poi ON submissions (app_id, kind, poi_id) WHERE poi_id <> '';
CREATE INDEX submissions_with_reference ON submissions (client_reference)
  WHERE client_reference <> '';
CREATE INDEX submissions_settled ON submissions (settled);
CREATE INDEX submissions_due ON submissions (ask_at) WHERE settled = 0;

CREATE TABLE writes (
  -- A number is never used again.
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  write_id TEXT NOT NULL UNIQUE,
  app_id TEXT NOT NULL,
  method TEXT NOT NULL,
  -- NULL if the caller sent none.
  request_id TEXT,
  fingerprint BLOB NOT NULL,
  client_reference TEXT NOT NULL,
  -- 'claimed', 'sent', 'finished' or 'unknown'.
  state TEXT NOT NULL,
  fence INTEGER NOT NULL,
  -- When the term of a claimed write ends, or the deadline of another. If a write has not finished
  -- by then, its outcome is unknown.
  until INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  created INTEGER NOT NULL,
  -- 0 if it was not sent.
  sent INTEGER NOT NULL,
  -- 0 unless it finished.
  ended INTEGER NOT NULL,
  -- The record that recovery uses if the outcome is unknown.
  sought BLOB NOT NULL,
  reply BLOB
) STRICT;

CREATE UNIQUE INDEX writes_with_request ON writes (request_id, app_id, method);
CREATE INDEX writes_unfinished ON writes (number) WHERE ended = 0;
CREATE INDEX writes_finished ON writes (ended) WHERE ended > 0;

CREATE TABLE leases (
  name TEXT PRIMARY KEY,
  fence INTEGER NOT NULL,
  held INTEGER NOT NULL,
  -- When the term of a held lease ends, or the pause of a released one.
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
  app_id TEXT PRIMARY KEY,
  value TEXT NOT NULL,
  generation INTEGER NOT NULL,
  since INTEGER NOT NULL,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (
  name TEXT PRIMARY KEY,
  spent INTEGER NOT NULL,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
