-- Version 2 of the outbox in SQLite: messages that progress passes over without delivering them.

-- The messages stay in the outbox's table, where pruning leaves them.
create table onecommit_set_aside (
  id             integer primary key,
  shard          integer not null,
  message_id     blob not null unique,
  topic          text not null,
  -- A digest of topic and key, whose later messages wait behind this one.
  parked_key     blob,
  -- Why it can't be delivered: a dead letter. NULL: it waits behind one, or for its topic.
  reason         text,
  -- What a person has asked for.
  request        text check (request in ('retry', 'discard')),
  set_aside_at_ms integer not null
                   default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer))
);
create index onecommit_set_aside_parked on onecommit_set_aside (shard, parked_key, id);
create index onecommit_set_aside_request on onecommit_set_aside (shard) where request is not null;

-- Topics that take nothing now: not there, or not to be written.
create table onecommit_held_topic (
  shard          integer not null,
  topic          text not null,
  reason         text not null,
  since_ms       integer not null
                   default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer)),
  primary key (shard, topic)
);

-- Topics that a person has declared dead: their messages are dead letters.
create table onecommit_dead_topic (
  topic          text primary key,
  declared_at_ms integer not null
                   default (cast(round((julianday('now') - 2440587.5) * 86400000) as integer))
);

update onecommit_installation set schema_version = 2;
