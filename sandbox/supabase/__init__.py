"""A stand-in for Supabase Auth and Storage that official clients cannot tell from the real ones.

`app.create_app(config)` is the application, `serve.serving` runs it on loopback,
`python -m sandbox.supabase --config FILE` is a process of its own.
"""
