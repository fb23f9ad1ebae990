"""Every error has one row, one page and one documented shape, and shows nobody's inner text."""

from collections.abc import Callable

import httpx
import msgspec
import psycopg
import pytest
from litestar import get, post
from litestar.params import FromQuery, JSONBody
from structlog.testing import capture_logs

from api import problems
from api.schemas.problems import ProblemDetails
from core import errors
from core.catalog.errors import CatalogReason
from core.settings import Settings
from tests.harness.errors import example, subclasses
from tests.harness.http import offline_client


def test_every_domain_error_has_a_row() -> None:
    assert set(errors.DomainError.__subclasses__()) == set(problems.BY_ERROR)
    for cls in subclasses():
        assert problems.kind_of(example(cls)) is not problems.INTERNAL


class _Form(msgspec.Struct):
    email: str
    size: int


_raised: list[Exception] = []


@get("/broken")
async def broken() -> None:
    raise _raised.pop()


@get("/sloppy", responses=problems.raises(public=True))
async def sloppy() -> None:
    raise _raised.pop()


@post("/form")
async def take_form(data: JSONBody[_Form], size: FromQuery[int]) -> None:
    del data, size


ROUTES = [broken, sloppy, take_form]


def test_slugs_name_one_kind_each() -> None:
    kinds = {id(kind): kind for kind in [*problems.BY_ERROR.values(), *problems.BY_STATUS.values()]}
    assert len({kind.slug for kind in kinds.values()}) == len(kinds) == len(problems.KINDS)


@pytest.mark.parametrize("kind", problems.KINDS.values(), ids=lambda kind: kind.slug)
def test_examples_are_problems_without_gaps(kind: problems.ProblemKind) -> None:
    example = msgspec.convert(problems.example(kind), ProblemDetails)
    assert example.status == kind.status
    assert example.detail != f"{kind.title}.", "a figure of its sentence is missing"


@pytest.mark.parametrize("cls", problems.BY_ERROR, ids=lambda cls: cls.__name__)
async def test_domain_errors_become_problems(
    cls: type[errors.DomainError], settings: Settings
) -> None:
    kind = problems.BY_ERROR[cls]
    _raised.append(cls(**kind.members))
    async with offline_client(settings, routes=ROUTES) as client:
        response = await client.get("/broken?token=secret")
    assert response.status_code == kind.status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"http://127.0.0.1:8000/problems/{kind.slug}"
    assert body["instance"] == "/broken"
    assert body["request_id"] == response.headers["x-request-id"]
    for name, value in msgspec.to_builtins(kind.members).items():
        assert body[name] == value
    assert ("retry-after" in response.headers) == (kind.retry_after_seconds is not None)
    assert ("www-authenticate" in response.headers) == (kind.status == 401)


async def test_a_domain_error_may_list_what_is_wrong(settings: Settings) -> None:
    _raised.append(
        errors.InvalidInputError(
            field="params",
            reason=CatalogReason.PARAMS_DO_NOT_FIT,
            errors=(errors.Fault("#/params/width", "too wide"),),
        )
    )
    async with offline_client(settings, routes=ROUTES) as client:
        body = (await client.get("/broken")).json()
    assert body["detail"].startswith("The parameters do not fit this operation")
    assert body["errors"] == [{"pointer": "#/params/width", "detail": "too wide"}]
    assert body["status"] == 422


async def test_validation_errors_point_at_the_place(settings: Settings) -> None:
    async with offline_client(settings, routes=ROUTES) as client:
        response = await client.post("/form?size=x", json={"email": 1, "size": 2})
        assert response.status_code == 400
        assert {fault["pointer"] for fault in response.json()["errors"]} == {
            "#/email",
            "query/size",
        }
        response = await client.post("/form?size=1", json={"email": 1, "size": 2})
        assert response.json()["errors"] == [
            {"pointer": "#/email", "detail": "Expected `str`, got `int`"}
        ]
        response = await client.post(
            "/form?size=1", content=b'{"email": ', headers={"content-type": "application/json"}
        )
        assert response.status_code == 400
        assert response.json()["type"].endswith("/invalid-request")


async def test_bodies_over_the_limit_are_refused(settings: Settings) -> None:
    async def chunks() -> "object":
        for _ in range(40):
            yield b" " * 10_000

    async with offline_client(settings, routes=ROUTES) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/form?size=1", content=b" " * 300_000, headers=headers)
        assert (response.status_code, response.json()["status"]) == (413, 413)
        response = await client.post("/form?size=1", content=chunks(), headers=headers)  # type: ignore[arg-type]  # without a length
        assert response.status_code == 413


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("password=hunter2 at db.internal"), 500),
        (psycopg.OperationalError("connection to db.internal failed"), 503),
        (psycopg.errors.QueryCanceled("canceling statement in db.internal"), 503),
        (psycopg.DataError("value at db.internal out of range"), 400),
        (psycopg.errors.InsufficientPrivilege("permission denied for db.internal"), 500),
    ],
)
async def test_inner_text_stays_inside(error: Exception, status: int, settings: Settings) -> None:
    _raised.append(error)
    with capture_logs() as lines:
        async with offline_client(settings, routes=ROUTES) as client:
            response = await client.get("/broken")
    assert response.status_code == status
    assert "db.internal" not in response.text
    assert any(line["log_level"] in {"error", "warning"} for line in lines)


async def test_the_frameworks_own_errors_are_problems(settings: Settings) -> None:
    async with offline_client(settings) as client:
        missing = await client.get("/nowhere")
        assert missing.json()["type"].endswith("/not-found")
        method = await client.delete("/healthz")
        assert method.json()["status"] == 405
        assert "GET" in method.headers["allow"]
        kind = await client.get("/problems/no-such-problem")
        assert kind.json()["kind"] == "problem_type"


@pytest.mark.parametrize("slug", problems.KINDS)
async def test_types_explain_themselves(slug: str, settings: Settings) -> None:
    async with offline_client(settings) as client:
        view = (await client.get(f"/problems/{slug}")).json()
        assert view["what_to_do"]
        page = await client.get(f"/problems/{slug}", headers={"accept": "text/html"})
        assert page.headers["content-type"].startswith("text/html")
        assert problems.KINDS[slug].title in page.text


async def test_a_problem_that_a_route_does_not_document_is_logged(settings: Settings) -> None:
    _raised.append(errors.ConflictError(reason=errors.InputReason.ID_TAKEN))
    with capture_logs() as lines:
        async with offline_client(settings, routes=ROUTES) as client:
            await client.get("/sloppy")
    assert [line["route"] for line in lines if line["event"] == "http.undocumented_problem"] == [
        "/sloppy"
    ]


async def test_base_url_names_the_types(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(public_base_url="https://api.example.org/")
    async with offline_client(settings) as client:
        response: httpx.Response = await client.get("/nowhere")
    assert response.json()["type"] == "https://api.example.org/problems/not-found"
