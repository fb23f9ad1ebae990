-- What an operation's steps can take and return, so that what must fail is refused before anything
-- is reserved. The limits are data of the catalogue's steps (`limits`, with where they come from):
--   input_side_min, input_side_max, input_pixels_max   of the picture that the step is given
--   enlarged_by        the parameter by which it enlarges; without it the size is the model's own,
--                      and nothing is known of the steps after it
--   output_pixels_max  the largest picture that it returns and that we take
-- after: base, people, catalog, uploads

create function app.step_factor(p_operation app.operations, p_step jsonb, p_params jsonb)
  returns numeric
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case jsonb_typeof(p_params -> name) when 'number' then (p_params ->> name)::numeric
    else coalesce(
      (p_step -> 'defaults' ->> 'upscale_factor')::numeric,
      (p_operation.params_schema -> 'properties' -> name ->> 'default')::numeric) end
  from (select p_step -> 'limits' ->> 'enlarged_by' as name) as enlarging
$$;
comment on function app.step_factor is
$$How many times a step enlarges: as ordered, or its default. Null: it does not enlarge by order.$$;

create function app.require_input(p_limits jsonb, p_width numeric, p_height numeric)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if least(p_width, p_height) < (p_limits ->> 'input_side_min')::numeric then
    raise exception 'too small' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'upload_id', 'reason', 'photo_too_small_for_step',
      'width', trunc(p_width), 'height', trunc(p_height),
      'side_min', p_limits -> 'input_side_min')::text;
  elsif greatest(p_width, p_height) > (p_limits ->> 'input_side_max')::numeric then
    raise exception 'too long' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'upload_id', 'reason', 'photo_too_long_for_step',
      'width', trunc(p_width), 'height', trunc(p_height),
      'side_max', p_limits -> 'input_side_max')::text;
  elsif p_width * p_height > (p_limits ->> 'input_pixels_max')::numeric then
    raise exception 'too large' using errcode = 'JS422', detail = jsonb_build_object(
      'field', 'upload_id', 'reason', 'photo_too_large_for_step',
      'width', trunc(p_width), 'height', trunc(p_height),
      'limit_pixels', p_limits -> 'input_pixels_max')::text;
  end if;
end $$;
comment on function app.require_input is
$$Refuses a picture that a step does not take. Errors: JS422 {field, reason, width, height, the limit}.$$;

create function app.require_possible(
  p_operation app.operations, p_width integer, p_height integer, p_params jsonb
)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_step jsonb;
  v_width numeric := p_width;
  v_height numeric := p_height;
  v_limit numeric;
  v_factor numeric;
  v_factor_min numeric;
begin
  for v_step in select value from jsonb_array_elements(p_operation.steps) loop
    perform app.require_input(v_step -> 'limits', v_width, v_height);
    exit when not v_step -> 'limits' ? 'enlarged_by';
    v_factor := app.step_factor(p_operation, v_step, p_params);
    v_limit := (v_step -> 'limits' ->> 'output_pixels_max')::numeric;
    if v_width * v_height * v_factor * v_factor > v_limit then
      v_factor_min := coalesce((p_operation.params_schema -> 'properties'
        -> (v_step -> 'limits' ->> 'enlarged_by') ->> 'minimum')::numeric, 1);
      if v_width * v_height * v_factor_min * v_factor_min > v_limit then
        raise exception 'large already' using errcode = 'JS422', detail = jsonb_build_object(
          'field', 'upload_id', 'reason', 'photo_too_large_to_enlarge',
          'width', trunc(v_width), 'height', trunc(v_height), 'factor', v_factor_min,
          'output_pixels', v_limit,
          'limit_pixels', trunc(v_limit / (v_factor_min * v_factor_min)))::text;
      end if;
      raise exception 'too many times' using errcode = 'JS422', detail = jsonb_build_object(
        'field', 'params', 'reason', 'factor_too_large',
        'width', trunc(v_width), 'height', trunc(v_height), 'factor', v_factor,
        'factor_max', trunc(sqrt(v_limit / (v_width * v_height)), 2),
        'output_pixels', v_limit)::text;
    end if;
    v_width := v_width * v_factor;
    v_height := v_height * v_factor;
  end loop;
end $$;
comment on function app.require_possible is
$$Refuses what the steps of an operation cannot do with a photo of this size and these parameters.
A size that is not known passes. Errors: JS422 {field, reason, width, height, and the limit}.$$;

create function app.check_possible(p_operation text, p_upload_id uuid, p_params jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_operation app.operations;
  v_upload app.uploads;
begin
  select *
  into v_operation
  from app.operations
  where slug = p_operation
    and is_active;
  select *
  into v_upload
  from app.uploads
  where id = p_upload_id;
  if not found then
    raise exception 'no such upload' using errcode = 'JS404', detail = '{"kind": "upload"}';
  end if;
  if v_upload.state <> 'ready' then
    raise exception 'upload is not ready'
      using errcode = 'JS409', detail = jsonb_build_object(
        'reason', 'upload_not_ready', 'state', v_upload.state)::text;
  end if;
  perform app.require_possible(v_operation, v_upload.width, v_upload.height, p_params);
end $$;
comment on function app.check_possible is
$$What start_generation would refuse of a photo of the caller's, before anything is ordered.
Errors: JS404, JS409 {reason: upload_not_ready, state}, JS422 as require_possible.$$;

grant execute on function
  app.step_factor(app.operations, jsonb, jsonb),
  app.require_input(jsonb, numeric, numeric),
  app.require_possible(app.operations, integer, integer, jsonb)
  to jewelshot_user, jewelshot_ledger;
grant execute on function app.check_possible(text, uuid, jsonb) to jewelshot_user;
