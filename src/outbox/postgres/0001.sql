-- Version 1 of the outbox. {schema} stands for the schema's name, quoted.
create schema if not exists {schema};

create table {schema}.outbox (
  -- Before id: defaults run in column order, and a row must draw its transaction's number before
  -- its id, or the reader's floor would pass rows by.
  xid            xid8 not null default pg_current_xact_id(),
  id             bigint generated always as identity primary key,
  message_id     uuid not null default gen_random_uuid(),
  topic          text not null,
  key            bytea,
  value          bytea,
  partition      int,
  header_names   text[],
  header_values  bytea[],
  created_at     timestamptz not null default clock_timestamp(),
  -- A row that can't be read would stop every shard of the outbox.
  check (cardinality(header_names) is not distinct from cardinality(header_values)
         and array_position(header_names, null) is null and length(topic) between 1 and 249)
) with (
  -- Rows live for moments: give their space back early and in small, unthrottled steps.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000,
  autovacuum_vacuum_cost_delay = 0,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
  toast.autovacuum_vacuum_cost_delay = 0,
  -- To cut off the file's end it would wait for a lock that a busy table never gives, five seconds in
  -- which no other vacuum runs: the table grew by as much. What is empty as a whole is truncated.
  vacuum_truncate = false, toast.vacuum_truncate = false
);
create index outbox_xid on {schema}.outbox (xid);

-- What this outbox is; one row.
create table {schema}.installation (
  single         boolean primary key default true check (single),
  schema_version int not null,
  incarnation    uuid not null,
  namespace      text not null,
  participant    text not null,
  shards         int not null,
  hash_version   int not null,
  delivery_id    text not null,
  created_at     timestamptz not null default clock_timestamp()
);

-- One row a shard: the epoch fences every write of a relay that lost its lease.
create table {schema}.shard (
  shard          int primary key,
  epoch          bigint not null default 0,
  born           boolean not null default false,
  pruned         boolean not null default false,
  last_error     text,
  last_error_at  timestamptz
);

-- The small commits that make durable what a window saw, before Kafka is told.
create table {schema}.barrier (
  id             uuid primary key,
  shard          int not null,
  epoch          bigint not null,
  counter        bigint not null
);

-- Leases and live relays, where no ZooKeeper is configured. beat only grows while its owner lives.
create table {schema}.lease (
  shard          int primary key,
  owner          uuid,
  epoch          bigint not null default 0,
  beat           bigint not null default 0
);
create table {schema}.relay (
  id             uuid primary key,
  beat           bigint not null
);

-- A crash empties an unlogged table, a clean restart does not: another id tells of a crash that
-- neither the connection nor the start time shows.
create unlogged table {schema}.server_life (
  single         boolean primary key default true check (single),
  id             uuid not null default gen_random_uuid()
);

create function {schema}.publish_bytes(
  topic text, key bytea, value bytea, headers jsonb default null, partition int default null
) returns uuid language plpgsql as $$
declare
  names text[];
  contents bytea[];
  published uuid;
begin
  -- A pattern with {1,249} in it takes longer than all the rest.
  if topic is null or topic ~ '[^a-zA-Z0-9._-]' or length(topic) not between 1 and 249
    or topic in ('.', '..')
  then
    raise exception 'onecommit: % is not a Kafka topic name (1 to 249 of a-z, A-Z, 0-9, . _ -)',
      coalesce(quote_literal(left(topic, 60)), 'NULL') using errcode = 'invalid_parameter_value';
  end if;
  if partition < 0 then
    raise exception 'onecommit: a partition''s number is 0 or more, not %', partition
      using errcode = 'invalid_parameter_value';
  end if;
  if jsonb_typeof(headers) not in ('object', 'null') then
    raise exception 'onecommit: headers are a JSON object of names and text values, not %',
      jsonb_typeof(headers) using errcode = 'invalid_parameter_value';
  end if;
  if jsonb_typeof(headers) = 'object' then
    select array_agg(h.name order by h.place), array_agg(convert_to(h.value, 'UTF8') order by h.place)
      into names, contents
      from jsonb_each_text(headers) with ordinality as h(name, value, place);
    if exists (select from unnest(names) n where n = '' or lower(n) like 'onecommit-%') then
      raise exception 'onecommit: a header''s name is not empty and does not start with onecommit-'
        using errcode = 'invalid_parameter_value';
    end if;
  end if;
  insert into {schema}.outbox (topic, key, value, partition, header_names, header_values)
    values (publish_bytes.topic, publish_bytes.key, publish_bytes.value, publish_bytes.partition,
            names, contents)
    returning message_id into published;
  return published;
end $$;

-- Not in SQL: PostgreSQL would parse such a function anew for each call.
create function {schema}.publish(
  topic text, key text, value text, headers jsonb default null, partition int default null
) returns uuid language plpgsql as $$
begin
  return {schema}.publish_bytes(
    topic, convert_to(key, 'UTF8'), convert_to(value, 'UTF8'), headers, partition);
end $$;
