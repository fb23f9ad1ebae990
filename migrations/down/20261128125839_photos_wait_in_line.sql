-- Way back of photos that wait in line.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop policy upload_meters_admin on app.upload_meters;

drop policy upload_meters_writer on app.upload_meters;

drop function app.check_upload_limits(uuid,uuid,jsonb,bigint);

drop function app.complete_upload(uuid,text,bigint,bigint,jsonb);

drop function app.has_bought(uuid);

drop function app.lock_upload_meter(uuid);

drop function app.make_room_for_photo(uuid,bigint,bigint);

drop function app.mend_upload_lines();

drop function app.prepare_upload(uuid,text,text,jsonb,bigint,double precision);

drop function app.take_upload(uuid);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.complete_upload(p_id uuid, p_source_format text, p_size_bytes bigint)
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

create or replace function app.prepare_upload(
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

create or replace function app.settle_upload(p_id uuid, p_lease_token uuid, p_state text, p_facts jsonb)
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

comment on function app.complete_upload is
$$The bytes are stored and look like an image: the worker normalises them. Returns the task's id.
Locks: the upload. Errors: JS401, JS404, JS409. Replay: a stored or settled upload returns null.$$;

comment on function app.prepare_upload is
$$The intent to store a photo, before its bytes go anywhere; p_signed_seconds is how long a
direct upload's URL may be valid. Errors: JS401, JS409, JS429.
Replay: for the same id of the same user, a new URL may be valid longer while the bytes are missing.$$;

reset role;
revoke create on schema app from jewelshot_ledger;

revoke delete on app.upload_meters from jewelshot_ledger;

grant execute on function app.complete_upload(uuid,text,bigint) to jewelshot_user;

grant execute on function app.prepare_upload(uuid,text,text,double precision) to jewelshot_user;

revoke insert on app.upload_meters from jewelshot_ledger;

revoke select on app.upload_meters from jewelshot_admin;

revoke select on app.upload_meters from jewelshot_ledger;

revoke update on app.upload_meters from jewelshot_ledger;

alter table app.upload_meters disable row level security;
alter table app.upload_meters no force row level security;

drop index app.uploads_kept;
drop index app.uploads_in_line;
drop index app.uploads_unfinished;
create index uploads_pending on app.uploads (user_id) where state = 'pending';

alter table app.uploads
  drop constraint uploads_kept_bytes,
  drop constraint uploads_line,
  drop column kept_bytes,
  drop column task_id,
  drop column stored_at,
  drop column line,
  drop column cost_pixels;

drop table app.upload_meters;
