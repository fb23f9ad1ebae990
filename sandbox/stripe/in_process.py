"""The sandbox as a transport of httpx: what a test plugs into the client of the SDK."""

import asyncio

import httpx
from litestar import Litestar

from sandbox.stripe.replies import DROPPED


class InProcessTransport(httpx.AsyncBaseTransport):
    """Without a socket, but with what a socket does: dropped connections and read timeouts."""

    def __init__(self, app: Litestar) -> None:
        self._inner = httpx.ASGITransport(app=app)  # type: ignore[arg-type]  # Litestar's own types
        self._running: set[asyncio.Task[httpx.Response]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        # Shielded: the server goes on with a request after its client has left.
        task = asyncio.ensure_future(self._inner.handle_async_request(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            response = await asyncio.wait_for(asyncio.shield(task), seconds)
        except TimeoutError as error:
            raise httpx.ReadTimeout("no answer in time", request=request) from error
        if DROPPED in response.headers:
            raise httpx.RemoteProtocolError(
                "Server disconnected without sending a response.", request=request
            )
        return response

    async def aclose(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._inner.aclose()
