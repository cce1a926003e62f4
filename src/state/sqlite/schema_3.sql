-- The newest ticket of each third-party platform.
CREATE TABLE tickets (
  platform TEXT PRIMARY KEY,
  -- With a checksum over the row.
  value BLOB NOT NULL,
  -- When WeChat sent it, in seconds.
  sent_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The accounts that authorized a platform.
CREATE TABLE authorizers (
  platform TEXT NOT NULL,
  app_id TEXT NOT NULL,
  -- When WeChat states that the authorization last changed, in seconds.
  changed_at INTEGER NOT NULL,
  -- 0 if the authorization has ended.
  authorized INTEGER NOT NULL,
  -- Empty if there is none.
  refresh_token TEXT NOT NULL,
  -- With a checksum over the row.
  record BLOB NOT NULL,
  PRIMARY KEY (platform, app_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX authorizers_ended ON authorizers (changed_at) WHERE authorized = 0;
