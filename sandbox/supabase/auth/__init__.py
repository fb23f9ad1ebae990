"""Supabase Auth on the real auth tables: what its clients can tell, not how it is built."""
