-- Version 1 of the outbox in SQLite.
create table onecommit_outbox (
  -- autoincrement: without it an id came again once its message was pruned, and the message under
  -- it was never delivered.
  id             integer primary key autoincrement,
  message_id     blob not null default (randomblob(16))
                   check (typeof(message_id) = 'blob' and length(message_id) = 16),
  topic          text not null check (typeof(topic) = 'text'),
  key            blob check (typeof(key) in ('blob', 'null')),
  value          blob check (typeof(value) in ('blob', 'null')),
  partition      integer check (typeof(partition) in ('integer', 'null')),
  -- A version byte, then each name and each value behind its length; NULL where there are none.
  headers        blob check (typeof(headers) in ('blob', 'null')),
  created_at_ms  integer not null
                   default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer))
);

-- What this outbox is; one row.
create table onecommit_installation (
  single         integer primary key default 1 check (single = 1),
  schema_version integer not null,
  -- The outbox's own id, by which it is known from all others.
  outbox_id      blob not null,
  incarnation    blob not null,
  namespace      text not null,
  participant    text not null,
  shards         integer not null,
  hash_version   integer not null,
  delivery_id    text not null,
  created_at_ms  integer not null
                   default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer))
);

-- One row a shard: the epoch fences every write of a relay that lost its lease.
create table onecommit_shard (
  shard            integer primary key,
  epoch            integer not null default 0,
  born             integer not null default 0,
  pruned           integer not null default 0,
  last_error       text,
  last_error_at_ms integer
);

-- The small commits that make durable what a read saw, before it is delivered.
create table onecommit_barrier (
  id             blob primary key,
  shard          integer not null,
  epoch          integer not null,
  counter        integer not null
);
