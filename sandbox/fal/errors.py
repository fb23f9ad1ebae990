"""The bodies of fal's failures: error lists of the models, flat bodies of the infrastructure."""

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import ValidationError

DOCS_URL = "https://docs.fal.ai/errors/#"

NGINX_REASONS = {
    502: "502 Bad Gateway",
    503: "503 Service Temporarily Unavailable",
    504: "504 Gateway Time-out",
}

# error_type -> status, of the infrastructure (flat body)
FLAT_ERRORS = {
    "request_timeout": 504,
    "startup_timeout": 504,
    "runner_scheduling_failure": 503,
    "runner_connection_timeout": 503,
    "runner_disconnected": 503,
    "runner_connection_refused": 503,
    "runner_connection_error": 503,
    "runner_incomplete_response": 502,
    "runner_server_error": 500,
    "internal_error": 500,
    "client_disconnected": 499,
    "client_cancelled": 499,
    "bad_request": 400,
}

FLAT_TYPE_OF_STATUS = {
    400: "bad_request",
    499: "client_cancelled",
    500: "runner_server_error",
    502: "runner_incomplete_response",
    503: "runner_connection_error",
    504: "startup_timeout",
}

LISTED_STATUS = {
    "internal_server_error": 500,
    "generation_timeout": 504,
    "downstream_service_error": 400,
    "downstream_service_unavailable": 500,
}

MESSAGES = {
    "content_policy_violation": (
        "The content could not be processed because it contained material flagged by a "
        "content checker."
    ),
    "no_media_generated": "No media was generated. Try again with a different prompt.",
    "image_load_error": (
        "Failed to load the image. Please ensure the image file is not corrupted and is in a "
        "supported format."
    ),
    "file_download_error": (
        "Failed to download the file. Please check if the URL is accessible and try again."
    ),
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a request ended: what `GET response_url` answers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    units: float = 0.0

    @property
    def ok(self) -> bool:
        return self.status == 200


def listed_error(
    error_type: str,
    *,
    field: str = "image_url",
    message: str | None = None,
    status: int | None = None,
    ctx: Mapping[str, Any] | None = None,
    received: Any = None,
) -> Outcome:
    """Shape A: one item of a model's error list."""
    item: dict[str, Any] = {
        "loc": ["body", field],
        "msg": message or MESSAGES.get(error_type, error_type.replace("_", " ").capitalize()),
        "type": error_type,
        "url": DOCS_URL + error_type,
        "input": received,
    }
    if ctx:
        item["ctx"] = dict(ctx)
    return Outcome(
        status=status or LISTED_STATUS.get(error_type, 422),
        body=msgspec.json.encode({"detail": [item]}),
    )


def flat_error(error_type: str, *, detail: str | None = None, user: bool = False) -> Outcome:
    """Shape B: an infrastructure error, also named in a header."""
    headers = {"x-fal-error-type": error_type}
    if user:
        headers["x-fal-request-timeout-type"] = "user"
    text = detail or error_type.replace("_", " ").capitalize()
    return Outcome(
        status=FLAT_ERRORS.get(error_type, 500),
        body=msgspec.json.encode({"detail": text, "error_type": error_type}),
        headers=headers,
    )


def any_error(status: int | None, error_type: str | None) -> Outcome:
    """The failure that a fault rule names by status, by type or by both."""
    if error_type in FLAT_ERRORS:
        return flat_error(error_type)
    if error_type is not None:
        return listed_error(error_type, field="prompt", status=status)
    return (
        listed_error("no_media_generated", field="prompt")
        if status == 422
        else msgspec.structs.replace(
            flat_error(FLAT_TYPE_OF_STATUS.get(status or 500, "internal_error")),
            status=status or 500,
        )
    )


def validation_error(error: ValidationError) -> Outcome:
    details = []
    for item in error.errors(include_url=False):
        entry: dict[str, Any] = {
            "loc": ["body", *item["loc"]],
            "msg": item["msg"],
            "type": item["type"],
            "url": DOCS_URL + item["type"],
            "input": item["input"],
        }
        if "ctx" in item:
            entry["ctx"] = {
                name: value if isinstance(value, str | int | float | list) else str(value)
                for name, value in item["ctx"].items()
            }
        details.append(entry)
    return Outcome(status=422, body=msgspec.json.encode({"detail": details}, enc_hook=str))


def nginx_page(status: int) -> bytes:
    reason = NGINX_REASONS.get(status, f"{status} Error")
    return (
        f"<html>\r\n<head><title>{reason}</title></head>\r\n<body>\r\n"
        f"<center><h1>{reason}</h1></center>\r\n<hr><center>nginx</center>\r\n"
        "</body>\r\n</html>\r\n"
    ).encode()
