"""The OpenAPI document, and Swagger UI served from our own files: no page loads anything else."""

import importlib.util
import mimetypes
from pathlib import Path
from typing import Any

from litestar import Response, Router, get
from litestar._openapi.schema_generation import SchemaCreator
from litestar._openapi.schema_generation.plugins.struct import StructSchemaPlugin
from litestar.datastructures import ResponseHeader
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.openapi.spec import Components, Contact, Schema, SecurityScheme, Server, Tag
from litestar.params import FromPath
from litestar.typing import FieldDefinition

from api import pages
from api.identity import ADMIN_KEY_HEADER, INTERNAL_TOKEN_HEADER
from core.settings import Settings

_DESCRIPTION = """\
Turns plain phone photos of jewellery into catalogue images.

**Money.** A generation reserves its price when it is accepted; the reservation is confirmed when
the image is delivered and refunded when it is not. No credit is lost, minted or charged twice.

**Errors** are problem documents (RFC 9457, `application/problem+json`). `type` is stable and can
be opened; `request_id` names the request in our records.

**Retries.** Send an `Idempotency-Key` with every creating POST and repeat it as often as you like:
it is carried out once, and a repetition answers as the first did, with
`Idempotency-Replayed: true`.

**Lists** are pages: `items` and `next_cursor`, to be sent as `cursor` until it is null.

**Waiting.** `Prefer: wait=n` holds the answer back until what was asked for is settled, or for n
seconds.

**Rate limits** are sliding windows per person or network; see the `RateLimit` and
`RateLimit-Policy` headers. While the shared counter is away they hold per server process.
"""
_TAGS = [
    Tag(name="Auth", description="Sign up, sign in, sessions, recovery and the second factor."),
    Tag(name="Me", description="The signed-in person."),
    Tag(name="Uploads", description="Photos: send, read, delete."),
    Tag(name="Operations", description="What can be done to a photo, and what it costs."),
    Tag(name="Generations", description="Runs of an operation: start, watch, cancel, results."),
    Tag(name="Credits", description="Balance, ledger, and what a generation cost, explained."),
    Tag(name="Payments", description="Credit packs: buy, payments, invoices, refunds."),
    Tag(name="Admin", description="For admins with a second factor, or the break-glass key."),
    Tag(name="Webhooks", description="What providers tell us; signed by them."),
    Tag(name="Health", description="For load balancers and monitoring."),
    Tag(name="Problems", description="What the error types mean."),
]
LOCATION = ResponseHeader(
    name="Location", description="Where it can be read.", documentation_only=True
)
# What a route states in `security`.
PUBLIC: list[dict[str, list[str]]] = [{}]
BEARER: list[dict[str, list[str]]] = [{"bearer": []}]
ADMIN: list[dict[str, list[str]]] = [{"bearer": []}, {"admin_key": []}]
INTERNAL: list[dict[str, list[str]]] = [{"internal_token": []}]
METRICS: list[dict[str, list[str]]] = [{}, {"metrics_token": []}]
_COMPONENTS = Components(
    security_schemes={
        "bearer": SecurityScheme(
            type="http",
            scheme="bearer",
            bearer_format="JWT",
            description="The access token that sign-in, confirm or refresh answered.",
        ),
        "admin_key": SecurityScheme(
            type="apiKey",
            name=ADMIN_KEY_HEADER,
            security_scheme_in="header",
            description="Break-glass key of the operator. Off unless configured; each use alarms.",
        ),
        "metrics_token": SecurityScheme(
            type="http",
            scheme="bearer",
            description="METRICS_TOKEN, where the operator has set one.",
        ),
        "internal_token": SecurityScheme(
            type="apiKey",
            name=INTERNAL_TOKEN_HEADER,
            security_scheme_in="header",
            description="Shared secret between our own services.",
        ),
    }
)
_UI_FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"})
# Swagger UI sets styles and shows its icons as data URLs; scripts are our own files only.
_UI_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; font-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


class StrictStructs(StructSchemaPlugin):
    """Adds `additionalProperties: false` where a struct refuses unknown members.

    Litestar's own plugin leaves that out and has no public base to build on.
    """

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        supported = super().is_plugin_supported_field(field_definition)
        return supported and field_definition.type_.__struct_config__.forbid_unknown_fields

    def to_openapi_schema(
        self, field_definition: FieldDefinition, schema_creator: SchemaCreator
    ) -> Schema:
        schema = super().to_openapi_schema(field_definition, schema_creator)
        schema.additional_properties = False
        return schema


def openapi_config(settings: Settings) -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Jewelshot",
        version="1.0.0",
        description=_DESCRIPTION,
        contact=Contact(name="Jewelshot", url=settings.site_url or settings.public_base_url),
        servers=[Server(url="/")],
        tags=_TAGS,
        components=_COMPONENTS,
        path="/schema",
        render_plugins=[JsonRenderPlugin(), YamlRenderPlugin()],
    )


def _ui_directory() -> Path:
    """Where the wheel keeps Swagger UI; found without importing its code."""
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package swagger-ui-py is not installed")
    return Path(spec.submodule_search_locations[0]) / "static"


def docs_router() -> Router:
    directory = _ui_directory()
    files = {name: (directory / name).read_bytes() for name in _UI_FILES}
    files["docs.js"] = pages.asset("docs.js")
    page = pages.asset("docs.html")

    @get("/docs", include_in_schema=False, media_type="text/html", opt={"rate_limit": False})
    async def show_docs() -> Response[bytes]:
        return Response(
            page,
            media_type="text/html",
            headers={"Content-Security-Policy": _UI_POLICY},
        )

    @get("/docs/assets/{name:str}", include_in_schema=False, opt={"rate_limit": False})
    async def get_docs_asset(name: FromPath[str]) -> Response[Any]:
        content = files.get(name)
        if content is None:
            raise NotFoundException
        return Response(
            content,
            media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
            headers={"Cache-Control": "public, max-age=3600"},
        )

    return Router("/", route_handlers=[show_docs, get_docs_asset])
