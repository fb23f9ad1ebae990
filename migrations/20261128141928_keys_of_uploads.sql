-- keys of uploads: what it makes, and why

set local lock_timeout = '5s';
set local statement_timeout = '60s';

drop function app.prepare_upload(uuid, text, text, jsonb, bigint, double precision);

set local check_function_bodies = off;

grant create on schema app to jewelshot_ledger;
set local role jewelshot_ledger;

create or replace function app.prepare_upload(
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

reset role;
revoke create on schema app from jewelshot_ledger;

grant execute on function app.prepare_upload(uuid,text,text,jsonb,bigint,double precision) to jewelshot_user;
