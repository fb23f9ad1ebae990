"""The certificates that a stand-in's HTTP clients trust."""

import functools
import ssl

import httpx


@functools.cache
def tls_context() -> ssl.SSLContext:
    """One for a whole process: reading the certificates takes 20 ms, and tests start hundreds."""
    return httpx.create_ssl_context(trust_env=False)
