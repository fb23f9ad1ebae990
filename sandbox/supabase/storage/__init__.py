"""Supabase Storage: rows under the database's own row level security, bytes in a directory."""
