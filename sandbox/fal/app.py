"""The fal sandbox as one ASGI application: queue, storage, webhook keys, control."""

from litestar import Litestar

from sandbox.fal.config import FalSandboxConfig
from sandbox.fal.control_routes import CONTROL_ROUTES, warm_prerendered
from sandbox.fal.engine import Engine
from sandbox.fal.file_routes import FILE_ROUTES
from sandbox.fal.queue_routes import cancel, get_status_or_result, submit

BODY_BYTES_MAX = 128 * 1024 * 1024  # inputs may be data URIs


def create_app(config: FalSandboxConfig | None = None) -> Litestar:
    """`app.state.engine` is the running sandbox.

    It needs no start, only an event loop; callers that do not run the ASGI lifespan close it with
    `await app.state.engine.aclose()`.
    """
    app = Litestar(
        route_handlers=[*CONTROL_ROUTES, *FILE_ROUTES, submit, get_status_or_result, cancel],
        on_startup=[_warm],
        on_shutdown=[_close],
        openapi_config=None,
        logging_config=None,
        request_max_body_size=BODY_BYTES_MAX,
    )
    configure(app, config or FalSandboxConfig())
    return app


def configure(app: Litestar, config: FalSandboxConfig) -> None:
    """An empty sandbox, behind routes that are built once."""
    app.state.engine = Engine(config)


async def _warm(app: Litestar) -> None:
    engine: Engine = app.state.engine
    if engine.tuning.prerendered:
        await warm_prerendered(engine.config.prerendered_side)


async def _close(app: Litestar) -> None:
    engine: Engine = app.state.engine
    await engine.aclose()
