-- Way back of photos of 64 megapixels.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

update app.operations
set steps = (
  select jsonb_agg(
    case
      when step -> 'limits' ? 'input_pixels_max'
        then jsonb_set(step, '{limits,input_pixels_max}', '50000000')
      else step
    end
    order by place)
  from jsonb_array_elements(steps) with ordinality as part (step, place));
