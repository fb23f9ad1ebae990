"""Everything that touches pixels: pure functions on bytes, no database, no HTTP.

`sniff` reads headers only and is safe in the API. `normalise` and `outputs` decode, and run in
the worker's `pool`, never on an event loop.
"""
