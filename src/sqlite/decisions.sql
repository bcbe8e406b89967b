-- Version 1 of the decision log's file.
create table installation (
  incarnation    text not null
);
create table coordinator (
  id             blob primary key,
  record         blob not null,
  fence          integer not null
);
create table decision (
  coordinator    blob not null,
  batch          integer not null,
  bytes          blob not null,
  primary key (coordinator, batch)
);
create table outcome (
  id             integer primary key autoincrement,
  coordinator    blob not null,
  number         integer not null,
  outcome        text not null check (outcome in ('committed', 'rolled_back')),
  kept_at        integer not null default (unixepoch()),
  unique (coordinator, number)
);
