"""The few HTML pages of the API itself. Templates are files beside this one, without any script;
values are escaped when they are filled in."""

import html
import string
from functools import cache
from pathlib import Path

from litestar import Response

_DIRECTORY = Path(__file__).parent
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)


@cache
def asset(name: str) -> bytes:
    return (_DIRECTORY / name).read_bytes()


@cache
def _template(name: str) -> string.Template:
    return string.Template(asset(name).decode())


def escape(value: object) -> str:
    return html.escape(str(value), quote=True)


def render(name: str, *, title: str, status_code: int = 200, **values: object) -> Response[str]:
    """The page `name` in the common frame. Values ending in `_html` are taken as they are."""
    filled = {
        key: str(value) if key.endswith("_html") else escape(value) for key, value in values.items()
    }
    content = _template(name).substitute(filled)
    text = _template("frame.html").substitute(title=escape(title), content_html=content)
    return Response(
        text,
        status_code=status_code,
        media_type="text/html",
        headers={"Content-Security-Policy": _POLICY},
    )
