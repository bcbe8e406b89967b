-- Version 3: by these rows, one a coordinator, a lost or restored history is noticed.
create table {schema}.coordinator (
  id             uuid primary key,
  -- Raised by the coordinator alone, which notes elsewhere between which marks this one has to be.
  mark           bigint not null default 0 check (mark >= 0),
  -- Everything of that coordinator is settled here: it can prepare nothing any more.
  closed         boolean not null default false,
  closed_at      timestamptz
);

update {schema}.installation set schema_version = 3;
