"""Every error that leaves the application becomes a problem document here, and only here."""

from collections.abc import Mapping
from typing import Any

import psycopg
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    SerializationException,
    ValidationException,
)
from litestar.types import ExceptionHandlersMap

from api import problems
from api.identity import context_of
from api.middleware.head import allowing_head
from api.problems import ProblemKind
from api.resources import resources_of
from api.schemas.problems import FieldError
from core.errors import DomainError

log = structlog.get_logger()

AnyRequest = Request[Any, Any, Any]
_WWW_AUTHENTICATE = 'Bearer realm="jewelshot"'
_FRAMEWORK_HEADERS = ("allow",)


def _domain_error(request: AnyRequest, error: DomainError) -> Response[Any]:
    kind = problems.kind_of(error)
    if kind.status >= 500:
        log.error("http.domain_error", problem=kind.slug, fields=error.fields, exc_info=error)
    return _answer(request, kind, fields=error.fields)


def _http_exception(request: AnyRequest, error: HTTPException) -> Response[Any]:
    kind = problems.BY_STATUS.get(error.status_code)
    if kind is None:
        kind = problems.INVALID_REQUEST if error.status_code < 500 else problems.INTERNAL
    if kind.status >= 500:
        log.error("http.exception", problem=kind.slug, exc_info=error)
    field_errors = _field_errors(error) if kind is problems.INVALID_REQUEST else None
    kept = {
        name: allowing_head(value)
        for name, value in (error.headers or {}).items()
        if name.lower() in _FRAMEWORK_HEADERS
    }
    return _answer(request, kind, field_errors=field_errors, headers=kept)


def _database_error(request: AnyRequest, error: psycopg.Error) -> Response[Any]:
    """Not one of our own SQLSTATEs: the database is unavailable, or a value does not fit."""
    if isinstance(error, psycopg.OperationalError):
        log.error("http.database_unavailable", sqlstate=error.sqlstate, error=str(error))
        return _answer(request, problems.UNAVAILABLE)
    if isinstance(error, psycopg.DataError):
        log.warning("http.database_refused_value", sqlstate=error.sqlstate)
        fault = FieldError("#", "A value is out of range or has characters that cannot be kept")
        return _answer(request, problems.INVALID_REQUEST, field_errors=[fault])
    return _unexpected(request, error)


def _unexpected(request: AnyRequest, error: Exception) -> Response[Any]:
    log.error("http.unexpected_error", error=type(error).__name__, exc_info=error)
    return _answer(request, problems.INTERNAL)


def _answer(
    request: AnyRequest,
    kind: ProblemKind,
    *,
    fields: Mapping[str, Any] | None = None,
    field_errors: list[FieldError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response[Any]:
    known = context_of(request)
    answer_headers = dict(headers or {})
    given = dict(fields or {})
    if kind.retry_after_seconds is not None:
        wait = given.setdefault("retry_after_seconds", kind.retry_after_seconds)
        answer_headers["Retry-After"] = str(max(1, round(float(wait))))
    if kind.status == 401:
        answer_headers["WWW-Authenticate"] = _WWW_AUTHENTICATE
    _warn_if_undocumented(request, kind)
    body = problems.document(
        kind,
        base_url=resources_of(request).settings.public_base_url,
        instance=request.url.path,
        request_id=known.request_id,
        fields=given,
        field_errors=field_errors,
    )
    return Response(
        body, status_code=kind.status, headers=answer_headers, media_type=problems.MEDIA_TYPE
    )


def _warn_if_undocumented(request: AnyRequest, kind: ProblemKind) -> None:
    """A route that answers what its documentation does not name is a defect of the route."""
    handler = request.scope.get("route_handler")
    documented = getattr(handler, "responses", None)
    if documented is not None and kind.status not in documented:
        log.warning(
            "http.undocumented_problem",
            route=request.scope.get("path_template"),
            status=kind.status,
            problem=kind.slug,
        )


def _field_errors(error: HTTPException) -> list[FieldError]:
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        return [_field_error(entry) for entry in error.extra if isinstance(entry, dict)]
    if isinstance(error.__cause__, SerializationException):
        return [FieldError("#", "The body is not well-formed, or not of the documented type")]
    if isinstance(error, ClientException) and not isinstance(error, ValidationException):
        return [FieldError("#", "The request could not be read")]
    return []


def _field_error(entry: Mapping[str, Any]) -> FieldError:
    source = getattr(entry.get("source"), "value", "body")
    key = str(entry.get("key", "") or "")
    if source == "body":
        if key == "data":  # the handler's name for the body as a whole
            key = ""
        parts = [part for part in key.replace("[", ".").replace("]", "").split(".") if part]
        pointer = "#" + "".join(f"/{part}" for part in parts)
    else:
        pointer = f"{source}/{key}"
    return FieldError(pointer, str(entry.get("message", "is not valid")))


HANDLERS: ExceptionHandlersMap = {
    DomainError: _domain_error,
    HTTPException: _http_exception,
    psycopg.Error: _database_error,
    Exception: _unexpected,
}
