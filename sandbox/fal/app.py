"""The fal sandbox as one ASGI application: queue, storage, webhook keys, control."""

from litestar import Litestar
from litestar.datastructures import State

from sandbox.fal.config import FalSandboxConfig
from sandbox.fal.control_routes import CONTROL_ROUTES, warm_prerendered
from sandbox.fal.engine import Engine
from sandbox.fal.file_routes import FILE_ROUTES
from sandbox.fal.queue_routes import cancel, look, submit

BODY_BYTES_MAX = 128 * 1024 * 1024  # inputs may be data URIs


def create_app(config: FalSandboxConfig | None = None) -> Litestar:
    """`app.state.engine` is the running sandbox.

    It needs no start, only an event loop; whoever does not run the ASGI lifespan closes it with
    `await app.state.engine.aclose()`.
    """
    engine = Engine(config or FalSandboxConfig())

    async def warm() -> None:
        if engine.tuning.prerendered:
            await warm_prerendered()

    return Litestar(
        route_handlers=[*CONTROL_ROUTES, *FILE_ROUTES, submit, look, cancel],
        state=State({"engine": engine}),
        on_startup=[warm],
        on_shutdown=[engine.aclose],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=BODY_BYTES_MAX,
    )
