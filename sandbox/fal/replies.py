"""Small builders for the replies of every route."""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response

JSON = "application/json"
REQUEST_ID = "x-fal-request-id"


def reply(
    status: int,
    body: Any,
    *,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(
        content,
        status_code=status,
        media_type=JSON,
        headers={REQUEST_ID: request_id or str(uuid.uuid4()), **(headers or {})},
    )


def page(status: int, html: bytes) -> Response[bytes]:
    """An answer of the ingress: HTML, and no `x-fal-request-id`."""
    return Response(html, status_code=status, media_type="text/html", headers={"server": "nginx"})


def path_not_found(path: str) -> Response[bytes]:
    return reply(404, {"detail": f"Path /{path} not found"}, headers={"x-fal-billable-units": "0"})


def unauthorized(endpoint_id: str) -> Response[bytes]:
    return reply(
        401,
        {
            "detail": f'Cannot access application "{endpoint_id}". '
            "Authentication is required to access this application."
        },
    )


def format_units(units: float) -> str:
    """Whole numbers plain, others with eight places."""
    return str(int(units)) if units == int(units) else f"{units:.8f}"
