-- The photos that work is done to, and the line in which they wait to be normalised.
-- Lock order: meter, upload, task, line.
-- after: base, people, events, orders, tasks, lines

-- How many pixels a person has sent lately: a bucket that a minute drains. Its row is what a
-- person's uploads are counted under.
create table app.upload_meters (
  user_id uuid primary key references app.users (id) on delete restrict,
  drained_at timestamptz not null default app.now()  -- when all that was sent will be paid off
);

create table app.uploads (
  id uuid primary key,
  user_id uuid not null references app.users (id) on delete restrict,
  state text not null default 'pending',
  storage_key text not null,
  file_name text,
  source_format text,
  size_bytes bigint,
  cost_pixels bigint,  -- what normalising costs, by the file's header: core/pixels/cost.py
  line text,  -- in which it waits to be normalised, or waited
  stored_at timestamptz,
  task_id uuid,  -- of the task that normalises it, once it had its turn
  kept_bytes bigint not null default 0,  -- of the photo and its thumbnail
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
  constraint uploads_rejected check (state <> 'rejected' or problem is not null),
  constraint uploads_line check (line in ('normalise', 'normalise_large')),
  constraint uploads_kept_bytes check (kept_bytes >= 0)
);
create index uploads_user on app.uploads (user_id, created_at desc, id desc);
create index uploads_unsettled on app.uploads (created_at) where state in ('pending', 'stored');
create index uploads_unfinished on app.uploads (user_id) where state in ('pending', 'stored');
create index uploads_in_line on app.uploads (user_id, line, stored_at, id)
  where state = 'stored' and task_id is null;
create index uploads_kept on app.uploads (user_id, created_at) include (kept_bytes)
  where state = 'ready';
create index uploads_over on app.uploads (settled_at) where state in ('rejected', 'expired');

alter table app.upload_meters enable row level security;
alter table app.upload_meters force row level security;
alter table app.uploads enable row level security;
alter table app.uploads force row level security;

revoke all on app.upload_meters, app.uploads from public, anon, authenticated, service_role;

grant select, insert, update, delete on app.upload_meters to jewelshot_ledger;
grant select on app.upload_meters to jewelshot_admin;
grant select, insert, update, delete on app.uploads to jewelshot_ledger;
grant select on app.uploads to jewelshot_user, jewelshot_worker, jewelshot_admin;

create policy upload_meters_writer on app.upload_meters to jewelshot_ledger
  using (true) with check (true);
create policy upload_meters_admin on app.upload_meters for select to jewelshot_admin
  using ((select app.is_admin()));
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

create function app.lock_upload_meter(p_user_id uuid)
  returns timestamptz
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_drained_at timestamptz;
begin
  insert into app.upload_meters (user_id)
  values (p_user_id)
  on conflict (user_id) do nothing;
  select drained_at
  into v_drained_at
  from app.upload_meters
  where user_id = p_user_id
  for no key update;
  return v_drained_at;
end $$;
comment on function app.lock_upload_meter is
$$When the pixels that the person has sent are paid off. Locks: the meter, so that what is counted
of a person's uploads afterwards is counted by one at a time. Granted to no role.$$;

create function app.make_room_for_photo(p_user_id uuid, p_photos bigint, p_bytes bigint)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_upload app.uploads;
  v_photos bigint;
  v_bytes bigint;
  v_unused_at timestamptz;
begin
  select count(*), coalesce(sum(kept_bytes), 0)
  into v_photos, v_bytes
  from app.uploads
  where user_id = p_user_id
    and state = 'ready';
  while v_photos >= p_photos or v_bytes >= p_bytes loop
    select *
    into v_upload
    from app.uploads as upload
    where user_id = p_user_id
      and state = 'ready'
      and held_at is null
      and not exists (select from app.generations where upload_id = upload.id)
    order by created_at
    limit 1
    for update skip locked;
    v_unused_at := v_upload.settled_at + interval '1 day';
    if v_unused_at is null or v_unused_at > app.now() then
      raise exception 'too much is kept' using errcode = 'JS429', detail = jsonb_build_object(
        'reason', case when v_photos >= p_photos then 'photos_kept' else 'bytes_kept' end,
        'limit', case when v_photos >= p_photos then p_photos else p_bytes / 1000000 end,
        'retry_after_seconds', coalesce(
          ceil(extract(epoch from v_unused_at - app.now()))::integer, 86400))::text;
    end if;
    update app.uploads
    set state = 'expired', settled_at = app.now()
    where id = v_upload.id;
    perform app.emit(p_user_id, 'upload.expired', v_upload.id, null, '{}');
    perform app.erase_upload(v_upload);
    v_photos := v_photos - 1;
    v_bytes := v_bytes - v_upload.kept_bytes;
  end loop;
end $$;
comment on function app.make_room_for_photo is
$$Expires the oldest photos that nothing was made from, until there is room for one more under both
bounds; those of the last day stay, because their owner may be about to use them.
Locks: the photos, after the meter. Errors: JS429 (photos_kept, bytes_kept) when that is not enough.
Granted to no role.$$;

create function app.check_upload_limits(
  p_user_id uuid, p_upload_id uuid, p_limits jsonb, p_cost_pixels bigint
)
  returns timestamptz
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_drained_at timestamptz := app.lock_upload_meter(p_user_id);
  v_limits jsonb := p_limits -> case
    when app.has_bought(p_user_id) then 'buyer' else 'free' end;
  v_unfinished_max bigint := v_limits ->> 'unfinished';
  v_pixels_max bigint := v_limits ->> 'pixels_per_minute';
begin
  if (
    select count(*) >= v_unfinished_max
    from app.uploads
    where user_id = p_user_id
      and id <> p_upload_id
      and (
        state = 'stored'
        or state = 'pending' and app.now() < coalesce(signed_until, created_at + interval '1 hour'))
  ) then
    raise exception 'too many unfinished uploads'
      using errcode = 'JS429', detail = jsonb_build_object(
        'reason', 'unfinished_uploads', 'limit', v_unfinished_max)::text;
  end if;
  perform app.make_room_for_photo(
    p_user_id, (v_limits ->> 'photos')::bigint, (v_limits ->> 'bytes')::bigint);
  if v_pixels_max is null or p_cost_pixels is null then
    return v_drained_at;
  end if;
  v_drained_at := greatest(v_drained_at, app.now())
    + interval '1 minute' * (least(p_cost_pixels, v_pixels_max)::double precision / v_pixels_max);
  if v_drained_at > app.now() + interval '1 minute' then
    raise exception 'too many pixels'
      using errcode = 'JS429', detail = jsonb_build_object(
        'reason', 'pixels_per_minute', 'limit', v_pixels_max / 1000000, 'retry_after_seconds',
        ceil(extract(epoch from v_drained_at - app.now() - interval '1 minute')))::text;
  end if;
  return v_drained_at;
end $$;
comment on function app.check_upload_limits is
$$Whether a person may send one more photo; p_limits holds the bounds of who has bought something
(`buyer`) and of who has not (`free`): unfinished, photos, bytes, pixels_per_minute (null: no
bound). A pending upload counts as long as its bytes may still come. Returns what the meter is to
say once it is stored. Locks: the meter, photos that expire. Errors: JS429. Granted to no role.$$;

create function app.prepare_upload(
  p_id uuid, p_extension text, p_file_name text, p_limits jsonb,
  p_cost_pixels bigint default null, p_signed_seconds double precision default null
)
  returns void
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
begin
  if p_extension is null or p_extension !~ '^[a-z0-9]{2,5}$' then
    raise exception 'no extension of a file'
      using errcode = 'JS422', detail = '{"field": "extension", "reason": "out_of_range"}';
  end if;
  perform app.check_upload_limits(v_user_id, p_id, p_limits, p_cost_pixels);
  insert into app.uploads (id, user_id, storage_key, file_name, signed_until)
  values (
    p_id, v_user_id, concat(v_user_id, '/', p_id, '/original.', p_extension),
    left(p_file_name, 255),
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
direct upload's URL may be valid, p_cost_pixels what its header says where that is known. Where the
bytes go follows from who asks: nobody names the key of an object.
Locks: the meter, photos that expire. Errors: JS401, JS409, JS422, JS429.
Replay: for the same id of the same user, a new URL may be valid longer while the bytes are missing.$$;

create function app.complete_upload(
  p_id uuid, p_source_format text, p_size_bytes bigint, p_cost_pixels bigint, p_limits jsonb
)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_user_id uuid := app.require_person();
  v_state text;
  v_is_large boolean := p_cost_pixels > 25000000;
  v_line text := case when v_is_large then 'normalise_large' else 'normalise' end;
  v_job text := case when v_is_large then 'upload.normalise_large' else 'upload.normalise' end;
  v_drained_at timestamptz;
  v_task_id uuid;
begin
  perform app.lock_upload_meter(v_user_id);
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
  v_drained_at := app.check_upload_limits(v_user_id, p_id, p_limits, p_cost_pixels);
  update app.upload_meters
  set drained_at = v_drained_at
  where user_id = v_user_id;
  update app.uploads
  set state = 'stored',
    source_format = p_source_format,
    size_bytes = p_size_bytes,
    cost_pixels = p_cost_pixels,
    line = v_line,
    stored_at = app.clock_now()
  where id = p_id;
  v_task_id := app.add_task(v_job, jsonb_build_object('line', v_line));
  perform app.join_line(v_line, v_user_id, app.clock_now());
  return v_task_id;
end $$;
comment on function app.complete_upload is
$$The bytes are stored and look like an image: the photo joins its owner's others in the line of its
cost, with one task more that serves the line. Returns the task's id.
Locks: the meter, the upload, the line. Errors: JS401, JS404, JS409, JS429.
Replay: a stored or settled upload returns null.$$;

create function app.take_upload(p_lease_token uuid)
  returns uuid
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_task app.outbox;
  v_line text;
  v_user_id uuid;
  v_upload_id uuid;
begin
  select *
  into v_task
  from app.outbox
  where lease_token = p_lease_token
  for no key update;
  if not found then
    raise exception 'lease lost' using errcode = 'JS430';
  end if;
  if v_task.args ? 'upload_id' then
    return (v_task.args ->> 'upload_id')::uuid;
  end if;
  v_line := v_task.args ->> 'line';
  loop
    v_user_id := app.take_turn(v_line);
    exit when v_user_id is null;
    update app.uploads
    set task_id = v_task.id
    where id = (
      select id
      from app.uploads
      where user_id = v_user_id
        and line = v_line
        and state = 'stored'
        and task_id is null
      order by stored_at, id
      limit 1
      for update
    )
    returning id into v_upload_id;
    perform app.end_turn(v_line, v_user_id, case when exists (
      select
      from app.uploads
      where user_id = v_user_id
        and line = v_line
        and state = 'stored'
        and task_id is null
    ) then app.clock_now() end);
    exit when v_upload_id is not null;
  end loop;
  update app.outbox
  set args = args || jsonb_build_object('upload_id', v_upload_id)
  where id = v_task.id
    and v_upload_id is not null;
  return v_upload_id;
end $$;
comment on function app.take_upload is
$$The photo that a task normalises: the one that it took before, or the oldest of the person whose
turn it is in the task's line; then their next turn comes after everybody who waits now. Null when
nobody waits whose turn is not being taken at this moment. Locks: the task, the line, the upload.
Errors: JS430 when the lease was lost.
Replay: a task keeps its photo through every try.$$;

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
    kept_bytes = coalesce((p_facts ->> 'kept_bytes')::bigint, 0),
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

create function app.mend_upload_lines()
  returns integer
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_line text;
  v_job text;
  v_missing integer;
  v_added integer := 0;
begin
  update app.uploads as upload
  set task_id = null
  where state = 'stored'
    and task_id is not null
    and not exists (select from app.outbox where id = upload.task_id);
  foreach v_line in array array['normalise', 'normalise_large'] loop
    v_job := 'upload.' || v_line;
    select count(*) - (
        select count(*)
        from app.outbox
        where job = v_job
          and not args ? 'upload_id'
      )
    into v_missing
    from app.uploads
    where line = v_line
      and state = 'stored'
      and task_id is null;
    continue when v_missing <= 0;
    perform app.add_task(v_job, jsonb_build_object('line', v_line))
    from generate_series(1, v_missing);
    perform app.join_line(v_line, user_id, app.clock_now())
    from app.uploads
    where line = v_line
      and state = 'stored'
      and task_id is null
    group by user_id
    order by user_id;
    v_added := v_added + v_missing;
  end loop;
  return v_added;
end $$;
comment on function app.mend_upload_lines is
$$Adds the tasks that are missing in the lines of photos, which happens only where a task was given
up before it had its turn, or could not end its photo. Returns how many.
Locks: the uploads, the lines.$$;

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
  app.prepare_upload(uuid, text, text, jsonb, bigint, double precision),
  app.complete_upload(uuid, text, bigint, bigint, jsonb),
  app.discard_upload(uuid),
  app.delete_upload(uuid)
  to jewelshot_user;
grant execute on function
  app.take_upload(uuid),
  app.settle_upload(uuid, uuid, text, jsonb),
  app.mend_upload_lines(),
  app.expire_uploads(double precision, integer)
  to jewelshot_worker;
