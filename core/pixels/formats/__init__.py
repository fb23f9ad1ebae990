"""One small reader per file format. They look at structure only and never decode pixels.

Hostile bytes may cost them at most a refusal: the only exception that leaves is
`UnsupportedMediaError`.
"""
