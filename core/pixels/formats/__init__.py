"""One small reader per file format. They read structure only and never decode pixels.

Those of JPEG, PNG and WebP are plain Python and run in the API, too; those of HEIC and TIFF call
the codec libraries and run in pixel processes only.

Hostile bytes may cost them at most a refusal: the only exception that leaves is
`UnsupportedMediaError`.
"""
