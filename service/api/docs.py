"""The API pages at /docs: Swagger UI from our own files, so that nothing is fetched from anywhere else."""

from importlib.metadata import version
from pathlib import Path

from litestar import MediaType, Router
from litestar.datastructures import CacheControlHeader
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme, Tag
from litestar.static_files import create_static_files_router

_SWAGGER = Path(__file__).parent / "static" / "swagger"
_ASSETS = "/docs/static"
_DAY_S = 86_400

_DESCRIPTION = """\
An OpenAI-compatible router that learns from feedback which model answers which kind of prompt well.

Send chats to `POST /v1/chat/completions` with `model: "auto"`, and say with `POST /feedback` how good a reply was.
Until the first key is made with `armwise key create`, only callers on the same machine are served, without one.
"""


def openapi_config() -> OpenAPIConfig:
    """Pages at /docs, the schema at /docs/openapi.json."""
    return OpenAPIConfig(
        title="Armwise",
        version=version("armwise"),
        description=_DESCRIPTION,
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        path="/docs",
        render_plugins=[
            SwaggerRenderPlugin(
                path="/",
                js_url=f"{_ASSETS}/swagger-ui-bundle.js",
                css_url=f"{_ASSETS}/swagger-ui.css",
                standalone_preset_js_url=f"{_ASSETS}/swagger-ui-standalone-preset.js",
                favicon="<link rel='icon' href='data:,'>",  # Litestar's own comes from the internet
            ),
            JsonRenderPlugin(path="/openapi.json", media_type=MediaType.JSON),  # browsers show it
        ],
        components=Components(
            security_schemes={
                "key": SecurityScheme(
                    type="http",
                    scheme="bearer",
                    description="An API key, as `armwise key create` printed it.",
                )
            }
        ),
        security=[{}, {"key": []}],
        use_handler_docstrings=True,
        tags=[
            Tag(name="chat", description="What applications call, as they would call OpenAI."),
            Tag(name="feedback", description="What teaches."),
            Tag(name="owner", description="What the owner and the engineer on call look at."),
        ],
    )


def docs_handlers() -> list[Router]:
    """The files that the pages are made of. They change only with a release."""
    files = create_static_files_router(
        path=_ASSETS,
        directories=[_SWAGGER],
        name="docs-static",
        cache_control=CacheControlHeader(public=True, max_age=_DAY_S),
    )
    return [files]
