-- The first catalogue. Endpoints, parameters and defaults are fal.ai's own (model pages, 2026-11);
-- a change is a new version in a new migration, so that old generations keep their terms.
-- `typical_seconds` is when the first poll of a running call is worth it, `unit_price_usd` what one of
-- the provider's billable units costs us, `limits` are read by app.require_possible.

insert into app.operations (
  slug, version, title, description, lane, cost_credits, steps, output_rule, params_schema, presets
)
values
(
  'cutout', 1, 'Cut-out',
  'The piece on a transparent background. Its own pixels are kept; only the background goes.',
  'locked', 1,
  '[{"adapter": "background_removal", "provider": "fal",
     "endpoint": "fal-ai/birefnet/v2", "typical_seconds": 4,
     "unit_price_usd": 0.0008,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "source": "what uploads take; https://fal.ai/models/fal-ai/birefnet/v2/llms.txt names none"},
     "defaults": {"model": "Matting", "operating_resolution": "2048x2048",
       "output_format": "png", "refine_foreground": false}}]',
  'own_pixels_cutout',
  '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "additionalProperties": false, "properties": {}}',
  '[]'
),
(
  'packshot', 1, 'Packshot',
  'The cut-out''s own pixels, composed by us on pure white as marketplaces ask.',
  'locked', 1,
  '[{"adapter": "background_removal", "provider": "fal",
     "endpoint": "fal-ai/birefnet/v2", "typical_seconds": 4,
     "unit_price_usd": 0.0008,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "source": "what uploads take; https://fal.ai/models/fal-ai/birefnet/v2/llms.txt names none"},
     "defaults": {"model": "Matting", "operating_resolution": "2048x2048",
       "output_format": "png", "refine_foreground": false}}]',
  'packshot',
  '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "additionalProperties": false, "properties": {
      "margin_percent": {"type": "integer", "minimum": 0, "maximum": 30, "default": 8,
        "description": "White space around the piece, in percent of the frame."},
      "aspect_ratio": {"enum": ["1:1", "4:5", "original"], "default": "1:1"},
      "size": {"type": "integer", "minimum": 1024, "maximum": 3000, "default": 2000,
        "description": "Pixels on the longer side."},
      "shadow": {"enum": ["none", "soft"], "default": "none"}}}',
  '[]'
),
(
  'scene', 1, 'Scene',
  'The piece in a scene that you describe. A model redraws the whole image, the piece included.',
  'reimagined', 4,
  '[{"adapter": "instruction_edit", "provider": "fal",
     "endpoint": "fal-ai/nano-banana-2/edit", "typical_seconds": 15,
     "unit_price_usd": 0.08,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "source": "what uploads take; https://fal.ai/models/fal-ai/nano-banana-2/edit/llms.txt names none"},
     "defaults": {"num_images": 1, "output_format": "png", "limit_generations": true}}]',
  'as_delivered',
  '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "additionalProperties": false, "properties": {
      "prompt": {"type": "string", "minLength": 3, "maxLength": 1000,
        "description": "The scene, in plain words."},
      "preset": {"enum": ["marble", "velvet", "daylight", "dark_cards", "botanical"]},
      "aspect_ratio": {"enum": ["auto", "1:1", "4:5", "3:4", "4:3", "16:9", "9:16"],
        "default": "1:1"},
      "resolution": {"enum": ["1K", "2K"], "default": "1K"},
      "seed": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
    "anyOf": [{"required": ["prompt"]}, {"required": ["preset"]}]}',
  '[{"slug": "marble", "title": "White marble",
     "prompt": "Place this exact piece of jewellery on polished white marble, soft window light from the left, shallow depth of field, 100mm macro feel."},
    {"slug": "velvet", "title": "Dark velvet",
     "prompt": "Place this exact piece of jewellery on dark blue velvet, a single soft spotlight, crisp pinpoint sparkle."},
    {"slug": "daylight", "title": "Daylight",
     "prompt": "Place this exact piece of jewellery on pale linen in bright indirect daylight, natural soft shadow."},
    {"slug": "dark_cards", "title": "Studio, dark cards",
     "prompt": "Studio product photograph of this exact piece of jewellery, dark cards behind the subject, crisp pinpoint sparkle, 100mm macro feel."},
    {"slug": "botanical", "title": "Botanical",
     "prompt": "Place this exact piece of jewellery among fresh green leaves with morning dew, soft backlight."}]'
),
(
  'scene_hd', 1, 'Scene, large',
  'A scene as above, enlarged twice by a second model. Both models redraw the piece.',
  'reimagined', 6,
  '[{"adapter": "instruction_edit", "provider": "fal",
     "endpoint": "fal-ai/nano-banana-2/edit", "typical_seconds": 15,
     "unit_price_usd": 0.08,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "source": "what uploads take; https://fal.ai/models/fal-ai/nano-banana-2/edit/llms.txt names none"},
     "defaults": {"num_images": 1, "output_format": "png", "limit_generations": true}},
    {"adapter": "upscale", "provider": "fal",
     "endpoint": "fal-ai/seedvr/upscale/image", "typical_seconds": 8,
     "unit_price_usd": 0.001,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "enlarged_by": "factor", "output_pixels_max": 16000000,
       "source": "https://fal.ai/models/fal-ai/seedvr/upscale/image/llms.txt names none; larger orders came back at 16 megapixels, 2026-11-28"},
     "defaults": {"upscale_mode": "factor", "upscale_factor": 2, "output_format": "png"}}]',
  'as_delivered',
  '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "additionalProperties": false, "properties": {
      "prompt": {"type": "string", "minLength": 3, "maxLength": 1000},
      "preset": {"enum": ["marble", "velvet", "daylight", "dark_cards", "botanical"]},
      "aspect_ratio": {"enum": ["auto", "1:1", "4:5", "3:4", "4:3", "16:9", "9:16"],
        "default": "1:1"},
      "resolution": {"enum": ["1K", "2K"], "default": "1K"},
      "seed": {"type": "integer", "minimum": 0, "maximum": 2147483647}},
    "anyOf": [{"required": ["prompt"]}, {"required": ["preset"]}]}',
  '[]'
),
(
  'upscale', 1, 'Upscale',
  'A larger image. A model redraws fine detail, so it is not evidence of the piece''s condition.',
  'reimagined', 2,
  '[{"adapter": "upscale", "provider": "fal",
     "endpoint": "fal-ai/seedvr/upscale/image", "typical_seconds": 8,
     "unit_price_usd": 0.001,
     "limits": {"input_side_min": 64, "input_pixels_max": 65000000,
       "enlarged_by": "factor", "output_pixels_max": 16000000,
       "source": "https://fal.ai/models/fal-ai/seedvr/upscale/image/llms.txt names none; larger orders came back at 16 megapixels, 2026-11-28"},
     "defaults": {"upscale_mode": "factor", "output_format": "png"}}]',
  'as_delivered',
  '{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object",
    "additionalProperties": false, "properties": {
      "factor": {"type": "number", "minimum": 1.5, "maximum": 4, "default": 2},
      "seed": {"type": "integer", "minimum": 0, "maximum": 2147483647}}}',
  '[]'
);

update app.operations
set presets = (select presets from app.operations where slug = 'scene' and version = 1)
where slug = 'scene_hd'
  and version = 1;

-- The scene is what `scene` sells alone.
update app.operations
set cancel_credits = '{4}'
where slug = 'scene_hd'
  and version = 1;
