"""The operator's page at /dashboard, from our own files: nothing is fetched from anywhere else, and nothing is built.

The page holds no data: it asks the owner's endpoints for them, with the key that is typed into it.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Request, Response, get
from litestar.params import FromPath

from service.errors import NotFound

_FOLDER = Path(__file__).parents[1] / "dashboard"
_PAGE = "index.html"
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
}
_HEADERS = {
    # Asked again each time, and answered by 304: after an upgrade no old script meets a new one.
    "cache-control": "no-cache",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class _File(NamedTuple):
    """One file of the page."""

    body: bytes
    media_type: str
    etag: str


@cache
def _files() -> dict[str, _File]:
    """All files by their path below the folder: what is not among them is not served, whatever a path says."""
    found = {}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            body = path.read_bytes()
            etag = f'"{sha256(body).hexdigest()[:32]}"'
            found[path.relative_to(_FOLDER).as_posix()] = _File(body, _TYPES[path.suffix], etag)
    return found


@get("/dashboard", include_in_schema=False)
async def dashboard_page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The page."""
    return _answer(request, _PAGE)


@get("/dashboard/{name:path}", include_in_schema=False)
async def dashboard_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """What the page is made of.

    Raises:
        NotFound: no file of the page has this name.
    """
    return _answer(request, name.lstrip("/"))


def dashboard_handlers() -> list[Any]:
    """The handlers, with the files read: a request reads none."""
    _files()
    return [dashboard_page, dashboard_file]


def _answer(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
    found = _files().get(name)
    if found is None:
        raise NotFound(f"The dashboard has no file `{name[:128]}`. The page is at /dashboard.")
    headers = {**_HEADERS, "etag": found.etag}
    known = request.headers.get("if-none-match", "")
    if found.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")}:
        return Response(b"", status_code=304, headers=headers)
    return Response(found.body, media_type=found.media_type, headers=headers)
