"""Plain SQL migrations, kept the way Supabase's own CLI keeps them. `python -m migrations`."""
