"""The OpenAPI document is complete, and the pages load nothing from elsewhere."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from api import problems
from api.http.pages import Keyset
from api.schemas.problems import ProblemDetails
from core.errors import InvalidInputError
from core.ids import new_id
from core.settings import Settings
from tests.harness.http import borrowed_app, offline_client

METHODS = {"get", "post", "put", "patch", "delete"}
# These create nothing, or are carried out once whatever happens.
WITHOUT_KEY = {
    # Sessions and mails of Supabase Auth, which has its own limits and one-time tokens.
    "sign_up",
    "confirm",
    "sign_in",
    "refresh_session",
    "sign_out",
    "recover",
    "resend_confirmation",
    "enroll_factor",
    "challenge_factor",
    "verify_factor",
    # Told by vendors, under ids of theirs.
    "receive_fal_webhook",
    "receive_stripe_webhook",
    # Nothing is created.
    "create_estimate",
    # The thing that is named is moved on, once: its state says whether it was.
    "cancel_generation",
    "complete_upload",
    "retry_payment",
    "admin_disable_code",
    "admin_disable_code_issue",
}
# An admin's change of money: the ledger keeps these keys for ever.
KEY_IS_REQUIRED = {"admin_adjust_credits", "admin_create_refund", "admin_review_order"}
# Short, and never cut.
WHOLE_LISTS = {
    "/problems",
    "/v1/operations",
    "/v1/packs",
    "/v1/admin/provider-accounts",
    "/v1/admin/factors",
    "/v1/auth/mfa/factors",
}
NOT_PROBLEMS = {("/readyz", "503")}  # answers its checks in any state


@pytest.fixture
def app(settings: Settings) -> Iterator[Litestar]:
    with borrowed_app(settings) as app:
        yield app


@pytest.fixture
def document(app: Litestar) -> dict[str, Any]:
    return app.openapi_schema.to_schema()


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_every_operation_says_what_it_is(document: dict[str, Any]) -> None:
    ids = []
    tags = {tag["name"] for tag in document["tags"]}
    for path, _, operation in _operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= tags, path
        assert operation["security"], path
        ids.append(operation["operationId"])
    assert len(ids) == len(set(ids))


def test_every_operation_has_its_problems(document: dict[str, Any]) -> None:
    for path, method, operation in _operations(document):
        answers = operation["responses"]
        needed = {"400", "429", "500", "503"}
        if {} not in operation["security"]:
            needed.add("401")
        if "requestBody" in operation:
            needed |= {"413", "415"}
        assert needed <= set(answers), (path, method)
        for status, answer in answers.items():
            if int(status) < 400 or (path, status) in NOT_PROBLEMS:
                continue
            (media_type,) = answer["content"]
            assert media_type == problems.MEDIA_TYPE, (path, method, status)
            content = answer["content"][media_type]
            assert content["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}
            for slug, example in content["examples"].items():
                assert problems.KINDS[slug].status == int(status)
                assert set(example) <= {"summary", "description", "value"}


def test_strict_bodies_say_so(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["SignUp"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["ProblemDetails"]


def test_security_schemes_exist(document: dict[str, Any]) -> None:
    known = set(document["components"]["securitySchemes"])
    for path, _, operation in _operations(document):
        for requirement in operation["security"]:
            assert set(requirement) <= known, path


def test_problem_examples_fit_the_schema(document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/ProblemDetails", "components": document["components"]}
    for kind in problems.KINDS.values():
        jsonschema.validate(problems.example(kind), schema)
    assert "ProblemDetails" in document["components"]["schemas"]
    assert ProblemDetails.__struct_fields__[0] == "type"


def test_every_documented_route_is_reachable(app: Litestar, document: dict[str, Any]) -> None:
    served = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in app.routes
        for handler in getattr(route, "route_handlers", [])
        if isinstance(handler, HTTPRouteHandler)
        for method in handler.http_methods
    }
    for path, method, _ in _operations(document):
        assert (path, method) in served


async def test_the_document_and_its_page_are_served_by_us(settings: Settings) -> None:
    async with offline_client(settings) as client:
        document = await client.get("/schema/openapi.json")
        assert document.json()["openapi"].startswith("3.1")
        page = await client.get("/docs")
        assert page.status_code == 200
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 4
        for link in links:
            assert link.startswith("/docs/assets/")
            assert (await client.get(link)).status_code == 200
        assert "SwaggerUIBundle" in (await client.get("/docs/assets/docs.js")).text
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "http" not in policy
        for path in ("/docs/assets/..%2f__init__.py", "/docs/assets/swagger-editor.js"):
            assert (await client.get(path)).status_code == 404


async def test_pages_load_nothing_from_elsewhere(settings: Settings) -> None:
    async with offline_client(settings) as client:
        for path in ("/auth/confirm?token_hash=abcdefgh", "/problems", "/problems/conflict"):
            page: httpx.Response = await client.get(path, headers={"accept": "text/html"})
            assert page.status_code == 200
            assert "<script" not in page.text
            assert re.findall(r'<link[^>]+href="([^"]+)"', page.text) == [
                "data:,",
                "/assets/page.css",
            ]
        css = await client.get("/assets/page.css")
        assert css.headers["content-type"].startswith("text/css")
        assert "url(" not in css.text


def test_cursors_come_back_as_they_went() -> None:
    place = (new_id(), 17, "text ü")
    order: Keyset[Any, tuple[uuid.UUID, int, str]] = Keyset(
        tuple[uuid.UUID, int, str], lambda row: row
    )
    cursor = order.cursor_after(place)
    assert order.place_in(cursor) == place
    assert order.place_in(None) is None
    other = Keyset(str, str).cursor_after("x")
    for wrong in ("", "%%%", "bm9wZQ", cursor[:-3], "é", other):
        with pytest.raises(InvalidInputError):
            order.place_in(wrong)


def test_every_creating_post_takes_a_key(document: dict[str, Any]) -> None:
    posts = {
        operation["operationId"]: operation
        for _, method, operation in _operations(document)
        if method == "post"
    }
    for name, operation in posts.items():
        headers = {
            parameter["name"]: parameter
            for parameter in operation.get("parameters", ())
            if parameter["in"] == "header"
        }
        if name in WITHOUT_KEY:
            assert "Idempotency-Key" not in headers, name
            continue
        assert "Idempotency-Key" in headers, name
        assert headers["Idempotency-Key"]["required"] == (name in KEY_IS_REQUIRED), name
        assert {"409", "422"} <= set(operation["responses"]), name
        answers = [answer for status, answer in operation["responses"].items() if status < "300"]
        assert any("Idempotency-Replayed" in answer.get("headers", {}) for answer in answers), name
    assert set(posts) >= WITHOUT_KEY | KEY_IS_REQUIRED


def test_every_list_is_a_page(document: dict[str, Any]) -> None:
    """`list_…` answers `{items, next_cursor}`; what can be long takes `cursor` and `limit`."""
    lists = 0
    for path, _, operation in _operations(document):
        if "list_" not in operation["operationId"]:
            continue
        lists += 1
        content = operation["responses"]["200"]["content"]["application/json"]["schema"]
        name = content["$ref"].rpartition("/")[2]
        fields = document["components"]["schemas"][name]["properties"]
        assert set(fields) == {"items", "next_cursor"}, path
        asked = {parameter["name"] for parameter in operation.get("parameters", ())}
        assert {"cursor", "limit"} <= asked or path in WHOLE_LISTS, path
    assert lists >= 14


def test_no_route_answers_a_bare_array(document: dict[str, Any]) -> None:
    for path, _, operation in _operations(document):
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                assert content["schema"].get("type") != "array", path
