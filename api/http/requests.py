"""The request that handlers are given: JSON that nests without end is not decoded."""

from typing import Any

from litestar import Request
from litestar.exceptions import SerializationException

from core.nesting import is_too_deep


class ApiRequest(Request[Any, Any, Any]):
    async def json(self) -> Any:
        if is_too_deep(await self.body()):
            raise SerializationException("nested too deep")
        return await super().json()
