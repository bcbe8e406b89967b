-- Version 1 of the leases' file. A row's beat only grows while its relay lives.
create table lease (
  participant    text not null,
  shard          integer not null,
  owner          blob,
  epoch          integer not null default 0,
  beat           integer not null default 0,
  primary key (participant, shard)
);
create table relay (
  participant    text not null,
  id             blob not null,
  beat           integer not null,
  primary key (participant, id)
);
