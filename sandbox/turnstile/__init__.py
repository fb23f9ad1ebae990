"""Cloudflare Turnstile, as far as a server that verifies its tokens can tell."""
