"""The type of a request in a stand-in's routes; the application's state holds the stand-in."""

from typing import Any

from litestar import Request

AnyRequest = Request[Any, Any, Any]
