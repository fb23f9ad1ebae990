-- Who waits for a turn: one row for each person or endpoint that waits in a line, so that serving
-- the next one costs the same whether ten wait or ten thousand.

-- Whoever adds an item to a line upserts its key's row after the item (serve_at = least(…)).
-- Serving takes the row with the earliest serve_at by skip locked, then that key's next item, and
-- then sets serve_at to when the key may be served again, or deletes the row.
create table app.lines (
  line text not null,
  key uuid not null,  -- a person's or an endpoint's
  serve_at timestamptz not null,
  primary key (line, key)
);
create index lines_serve_at on app.lines (line, serve_at);

alter table app.lines enable row level security;
alter table app.lines force row level security;

revoke all on app.lines from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.lines to jewelshot_ledger;
grant select on app.lines to jewelshot_worker, jewelshot_admin;

create policy lines_writer on app.lines to jewelshot_ledger using (true) with check (true);
create policy lines_worker on app.lines for select to jewelshot_worker using (true);
create policy lines_admin on app.lines for select to jewelshot_admin
  using ((select app.is_admin()));
