-- Version 2 of the outbox: messages that progress passes over without delivering them.

-- The messages stay in the outbox's table, where pruning leaves them.
create table {schema}.set_aside (
  id             bigint primary key,
  shard          int not null,
  message_id     uuid not null unique,
  topic          text not null,
  -- A digest of topic and key, whose later messages wait behind this one.
  parked_key     bytea,
  -- Why it can't be delivered: a dead letter. NULL: it waits behind one, or for its topic.
  reason         text,
  -- What a person has asked for.
  request        text check (request in ('retry', 'discard')),
  set_aside_at   timestamptz not null default clock_timestamp()
);
create index set_aside_parked on {schema}.set_aside (shard, parked_key, id);
create index set_aside_request on {schema}.set_aside (shard) where request is not null;

-- Topics that take nothing now: not there, or not to be written.
create table {schema}.held_topic (
  shard          int not null,
  topic          text not null,
  reason         text not null,
  since          timestamptz not null default clock_timestamp(),
  primary key (shard, topic)
);

-- Topics that a person has declared dead: their messages are dead letters.
create table {schema}.dead_topic (
  topic          text primary key,
  declared_at    timestamptz not null default clock_timestamp()
);

update {schema}.installation set schema_version = 2;
