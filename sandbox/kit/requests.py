"""The request of a stand-in's route, whose application's state says what it stands for."""

from typing import Any

from litestar import Request

AnyRequest = Request[Any, Any, Any]
