-- The tables of locks, beside those of the decision log. Numbers are never used again.
create table if not exists lock_entry (
  number         integer primary key autoincrement,
  purpose        text not null,
  name           text not null,
  coordinator    blob,
  transaction_no integer,
  holder         blob unique,
  session        blob,
  unique (purpose, name, coordinator, transaction_no)
);
create index if not exists lock_entry_queue on lock_entry (purpose, name, number);
create table if not exists lock_wait (
  began          integer primary key autoincrement,
  coordinator    blob not null,
  transaction_no integer not null,
  name           text not null,
  unique (coordinator, transaction_no)
);
