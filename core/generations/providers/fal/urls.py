"""Paths of the queue. An endpoint is `[namespace/]owner/app[/sub]`; requests live at the app."""

import re
from urllib.parse import quote, urlsplit

import httpx

NAMESPACES = frozenset({"workflows", "comfy"})
_REQUEST_PATH = re.compile(
    r"(?:^|/)((?:(?:workflows|comfy)/)?[^/]+/[^/]+/requests/[^/]+(?:/(?:response|status|cancel))?)/?$"
)


def app_of(endpoint: str) -> str:
    """`fal-ai/bria/product-shot` → `fal-ai/bria`; a namespace keeps its place in front."""
    segments = endpoint.strip("/").split("/")
    size = 3 if segments[0] in NAMESPACES else 2
    assert len(segments) >= size, f"not an endpoint id: {endpoint!r}"
    assert all(segments), f"not an endpoint id: {endpoint!r}"
    return "/".join(segments[:size])


def request_urls(queue_url: str, endpoint: str, request_id: str) -> tuple[str, str, str]:
    """(status, result, cancel) of a request."""
    base = f"{queue_url}/{app_of(endpoint)}/requests/{quote(request_id, safe='')}"
    return f"{base}/status", base, f"{base}/cancel"


def same_origin(url: str, other: str) -> bool:
    try:
        first, second = httpx.URL(url), httpx.URL(other)
    except httpx.InvalidURL:
        return False
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port) and (
        not first.userinfo
    )


def on_queue_host(url: str, queue_url: str) -> str | None:
    """`url` as it stands on the configured host, so that a key is never sent to another one.

    A call that was submitted through another base URL has the same path on this one. None: it is
    not the URL of a request.
    """
    if same_origin(url, queue_url):
        return url
    found = _REQUEST_PATH.search(urlsplit(url).path)
    return None if found is None else f"{queue_url}/{found.group(1)}"
