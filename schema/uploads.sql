-- The photos that work is done to.
-- after: base, people, events, tasks

create table app.uploads (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  state text not null default 'pending',
  storage_key text not null,
  file_name text,
  source_format text,
  size_bytes bigint,
  normal_key text,
  thumbnail_key text,
  content_type text,
  width integer,
  height integer,
  pixel_sha256 text,
  notes jsonb not null default '[]',
  problem jsonb,
  signed_until timestamptz,  -- of a direct upload: until then its URL lets bytes in
  held_at timestamptz,  -- a legal hold: its files are erased by nobody
  created_at timestamptz not null default app.now(),
  settled_at timestamptz,
  constraint uploads_state check (state in ('pending', 'stored', 'ready', 'rejected', 'expired')),
  constraint uploads_ready check (
    state <> 'ready' or (normal_key is not null and pixel_sha256 is not null)),
  constraint uploads_rejected check (state <> 'rejected' or problem is not null)
);
create index uploads_user on app.uploads (user_id, created_at desc, id desc);
create index uploads_unsettled on app.uploads (created_at) where state in ('pending', 'stored');
create index uploads_pending on app.uploads (user_id) where state = 'pending';
create index uploads_over on app.uploads (settled_at) where state in ('rejected', 'expired');

alter table app.uploads enable row level security;
alter table app.uploads force row level security;

revoke all on app.uploads from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.uploads to jewelshot_ledger;
grant select on app.uploads to jewelshot_user, jewelshot_worker, jewelshot_admin;

create policy uploads_writer on app.uploads to jewelshot_ledger using (true) with check (true);
create policy uploads_own on app.uploads for select to jewelshot_user
  using (user_id = (select app.current_user_id()));
create policy uploads_worker on app.uploads for select to jewelshot_worker using (true);
create policy uploads_admin on app.uploads for select to jewelshot_admin
  using ((select app.is_admin()));

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create function app.erase_upload(p_upload app.uploads)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_args jsonb := jsonb_build_object('upload_id', p_upload.id, 'user_id', p_upload.user_id);
begin
  perform app.add_task('upload.erase', v_args, null, 0);
  if p_upload.signed_until > app.now() then
    perform app.add_task(
      'upload.erase', v_args, p_upload.id || ' late',
      extract(epoch from p_upload.signed_until - app.now())::double precision + 60);
  end if;
end $$;
comment on function app.erase_upload is
$$Has the bytes of an upload erased that are not needed: now, and once more when its signed URL has
ended, because until then its holder can send them again. In the transaction that settles or ends
the upload, so that no crash leaves them behind. The first task has no dedupe key: one that
already runs has read what to keep, and would keep it though it was deleted meanwhile.
Granted to no role.$$;

create function app.prepare_upload(
  p_id uuid, p_storage_key text, p_file_name text, p_signed_seconds double precision default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
begin
  if (
    select count(*) >= 200
    from app.uploads
    where user_id = v_user_id
      and state = 'pending'
  ) then
    raise exception 'too many unfinished uploads'
      using errcode = 'JS429', detail = '{"reason": "unfinished_uploads", "limit": 200}';
  end if;
  insert into app.uploads (id, user_id, storage_key, file_name, signed_until)
  values (
    p_id, v_user_id, p_storage_key, left(p_file_name, 255),
    app.now() + make_interval(secs => p_signed_seconds))
  on conflict (id) do update
  set signed_until = greatest(uploads.signed_until, excluded.signed_until)
  where uploads.user_id = v_user_id
    and uploads.state = 'pending';
  if not found and not exists (
    select from app.uploads where id = p_id and user_id = v_user_id
  ) then
    raise exception 'upload id taken' using errcode = 'JS409', detail = '{"reason": "id_taken"}';
  end if;
end $$;
comment on function app.prepare_upload is
$$The intent to store a photo, before its bytes go anywhere; p_signed_seconds is how long a
direct upload's URL may be valid. Errors: JS401, JS409, JS429.
Replay: for the same id of the same user, a new URL may be valid longer while the bytes are missing.$$;

create function app.complete_upload(p_id uuid, p_source_format text, p_size_bytes bigint)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_state text;
begin
  select state
  into v_state
  from app.uploads
  where id = p_id
    and user_id = v_user_id
  for no key update;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_state = 'expired' then
    raise exception 'upload expired'
      using errcode = 'JS409', detail = '{"reason": "upload_expired", "state": "expired"}';
  end if;
  if v_state <> 'pending' then
    return null;
  end if;
  update app.uploads
  set state = 'stored', source_format = p_source_format, size_bytes = p_size_bytes
  where id = p_id;
  return app.add_task(
    'upload.normalise', jsonb_build_object('upload_id', p_id), p_id::text);
end $$;
comment on function app.complete_upload is
$$The bytes are stored and look like an image: the worker normalises them. Returns the task's id.
Locks: the upload. Errors: JS401, JS404, JS409. Replay: a stored or settled upload returns null.$$;

create function app.discard_upload(p_id uuid)
  returns boolean
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_upload app.uploads;
begin
  delete from app.uploads
  where id = p_id
    and user_id = v_user_id
    and state = 'pending'
  returning * into v_upload;
  if not found then
    return false;
  end if;
  perform app.erase_upload(v_upload);
  return true;
end $$;
comment on function app.discard_upload is
$$Deletes a pending upload whose bytes were refused or never came; false when it is not pending.
Locks: the upload. Errors: JS401.$$;

create function app.delete_upload(p_id uuid)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_upload app.uploads;
begin
  select *
  into v_upload
  from app.uploads
  where id = p_id
    and user_id = v_user_id
  for update;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state = 'stored' then
    raise exception 'upload is being processed'
      using errcode = 'JS409', detail = '{"reason": "upload_in_work", "state": "stored"}';
  end if;
  if exists (select from app.generations where upload_id = p_id) then
    raise exception 'upload is in use'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_in_use', 'state', v_upload.state)::text;
  end if;
  delete from app.uploads
  where id = p_id;
  perform app.erase_upload(v_upload);
end $$;
comment on function app.delete_upload is
$$Deletes a photo and its bytes, unless a generation was made from it or a worker processes it.
Locks: the upload. Errors: JS401, JS404, JS409.$$;

create function app.settle_upload(p_id uuid, p_lease_token uuid, p_state text, p_facts jsonb)
  returns text
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_upload app.uploads;
begin
  perform app.complete_task(p_lease_token);
  update app.uploads
  set state = p_state,
    settled_at = app.now(),
    normal_key = p_facts ->> 'normal_key',
    thumbnail_key = p_facts ->> 'thumbnail_key',
    content_type = p_facts ->> 'content_type',
    width = (p_facts ->> 'width')::integer,
    height = (p_facts ->> 'height')::integer,
    pixel_sha256 = p_facts ->> 'pixel_sha256',
    notes = coalesce(p_facts -> 'notes', '[]'),
    problem = p_facts -> 'problem'
  where id = p_id
    and state = 'stored'
  returning * into v_upload;
  if not found then
    return (select state from app.uploads where id = p_id);
  end if;
  perform app.emit(
    v_upload.user_id, 'upload.' || p_state, p_id, null,
    jsonb_strip_nulls(jsonb_build_object(
      'width', v_upload.width, 'height', v_upload.height, 'code', v_upload.problem ->> 'code')));
  perform app.erase_upload(v_upload);
  return p_state;
end $$;
comment on function app.settle_upload is
$$Settles a stored upload: ready with facts, or rejected with a problem. The file as it was sent is
erased either way, and with it what it may hold about a place or person.
Returns the state afterwards, null when the upload is gone. Locks: the upload. Errors: JS430.
Replay: a settled upload stays as it is.$$;

create function app.expire_uploads(p_older_than_seconds double precision, p_limit integer)
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_upload app.uploads;
  v_expired integer := 0;
begin
  for v_upload in
    update app.uploads
    set state = 'expired', settled_at = app.now()
    where id in (
      select id
      from app.uploads
      where state = 'pending'
        and created_at < app.now() - make_interval(secs => p_older_than_seconds)
      order by created_at
      limit p_limit
      for update skip locked
    )
    returning *
  loop
    perform app.erase_upload(v_upload);
    v_expired := v_expired + 1;
  end loop;
  delete from app.uploads
  where id in (
    select id
    from app.uploads
    where state in ('rejected', 'expired')
      and settled_at < app.now() - interval '30 days'
    order by settled_at
    limit p_limit
    for update skip locked
  );
  return v_expired;
end $$;
comment on function app.expire_uploads is
$$Ends pending uploads whose bytes did not come in time, and deletes what ended a month ago.
Returns how many expired; less than the limit means that none are left.
Locks: the uploads, skipping locked ones.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function
  app.prepare_upload(uuid, text, text, double precision),
  app.complete_upload(uuid, text, bigint),
  app.discard_upload(uuid),
  app.delete_upload(uuid)
  to jewelshot_user;
grant execute on function
  app.settle_upload(uuid, uuid, text, jsonb),
  app.expire_uploads(double precision, integer)
  to jewelshot_worker;
