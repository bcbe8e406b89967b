-- Version 1 of the topic log.

-- The log's own id, by which it is known from all others; one row.
create table log (
  single         integer primary key check (single = 1),
  id             blob not null
);

create table topic (
  id             integer primary key,
  name           text not null unique,
  next_offset    integer not null default 0
);

create table message (
  id             integer primary key,
  topic          integer not null,
  offset         integer not null,
  partition      integer not null,
  key            blob,
  value          blob,
  headers        blob,
  timestamp_ms   integer not null
);
create unique index message_offset on message (topic, offset);

-- One row a shard: who delivers it, and how far it got.
create table deliverer (
  name           text primary key,
  -- The lease's epoch, and how often the shard was taken: the latest one fences all before it.
  epoch          integer not null,
  taken          integer not null,
  progress       blob
);

create table consumer_group (
  name           text not null,
  topic          text not null,
  next_offset    integer not null,
  primary key (name, topic)
);
