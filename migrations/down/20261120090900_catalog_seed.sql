delete from app.operations
where version = 1
  and slug in ('cutout', 'packshot', 'scene', 'scene_hd', 'upscale');
