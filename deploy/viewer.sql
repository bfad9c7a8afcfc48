-- The role of Grafana's PostgreSQL data source: it reads the masked views of the schema `observability`, and nothing
-- else. Run by an owner of the schema after each migration:
--
--   psql "$DATABASE_URL" --set password='…' --file deploy/viewer.sql
select 'create role paygauge_viewer login' where not exists (select from pg_roles where rolname = 'paygauge_viewer')
\gexec
alter role paygauge_viewer with login password :'password'
    nosuperuser nocreatedb nocreaterole noinherit connection limit 5;
alter role paygauge_viewer set default_transaction_read_only = on;
-- A dashboard must never hold up a shop.
alter role paygauge_viewer set statement_timeout = '2s';
alter role paygauge_viewer set lock_timeout = '100ms';
revoke all on schema public from paygauge_viewer;
grant usage on schema observability to paygauge_viewer;
grant select on all tables in schema observability to paygauge_viewer;
