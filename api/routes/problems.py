"""What each problem type means, for people (HTML) and programs (JSON)."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, get
from litestar.params import FromPath

from api import pages, problems
from api.http.pages import Page
from api.openapi import PUBLIC
from api.problems import KINDS, ProblemKind, raises, type_uri
from api.resources import AppSettings
from api.schemas.problems import ProblemType
from core.errors import NotFoundError
from core.settings import Settings


def _view(kind: ProblemKind, settings: Settings) -> ProblemType:
    return ProblemType(
        type=type_uri(settings.public_base_url, kind),
        slug=kind.slug,
        status=kind.status,
        title=kind.title,
        meaning=kind.meaning,
        what_to_do=kind.what_to_do,
        members=msgspec.to_builtins(kind.members),
    )


def _wants_html(request: Request[Any, Any, Any]) -> bool:
    return "text/html" in request.headers.get("accept", "")


@get(
    "/problems",
    operation_id="list_problem_types",
    summary="All problem types",
    tags=["Problems"],
    security=PUBLIC,
    responses=raises(public=True),
)
async def list_problem_types(
    request: Request[Any, Any, Any], settings: AppSettings
) -> Response[Page[ProblemType]]:
    kinds = sorted(KINDS.values(), key=lambda kind: (kind.status, kind.slug))
    if _wants_html(request):
        items = "".join(
            f'<dt>{kind.status}</dt><dd><a href="/problems/{kind.slug}">'
            f"{pages.escape(kind.title)}</a></dd>"
            for kind in kinds
        )
        return pages.render("problems.html", title="Problem types", items_html=items)  # type: ignore[return-value]  # a page for people
    return Response(Page([_view(kind, settings) for kind in kinds]))


@get(
    "/problems/{slug:str}",
    operation_id="get_problem_type",
    summary="One problem type",
    tags=["Problems"],
    security=PUBLIC,
    responses=raises(NotFoundError, public=True),
)
async def get_problem_type(
    request: Request[Any, Any, Any], slug: FromPath[str], settings: AppSettings
) -> Response[ProblemType]:
    kind = problems.KINDS.get(slug)
    if kind is None:
        raise NotFoundError(kind="problem_type")
    view = _view(kind, settings)
    if _wants_html(request):
        return pages.render(  # type: ignore[return-value]  # a page for people
            "problem.html",
            title=kind.title,
            meaning=view.meaning,
            what_to_do=view.what_to_do,
            status=view.status,
            type=view.type,
        )
    return Response(view)


router = Router("/", route_handlers=[list_problem_types, get_problem_type])
