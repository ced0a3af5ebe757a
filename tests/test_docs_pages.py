"""The API pages work without internet: everything they load is ours."""

import re
from urllib.parse import urljoin, urlsplit

import pytest
from litestar import Litestar, get
from litestar.testing import TestClient

from service.api.docs import docs_handlers, openapi_config

HERE = "http://testserver.local"


@get("/pets", tags=["chat"])
async def pets() -> list[str]:
    """All pets."""
    return []


@pytest.fixture(scope="module")
def client():
    app = Litestar([pets, *docs_handlers()], openapi_config=openapi_config(), logging_config=None)
    with TestClient(app) as opened:
        yield opened


def addresses(html):
    """Everything a browser would load for a page."""
    return re.findall(r"""<(?:script|link|img)[^>]*?(?:src|href)=["']([^"']+)""", html)


def test_the_page_loads_only_from_where_it_came(client):
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    loaded = [address for address in addresses(page.text) if not address.startswith("data:")]
    assert len(loaded) == 3
    for address in loaded:
        assert urlsplit(urljoin(HERE, address)).netloc == urlsplit(HERE).netloc, address
        asset = client.get(address)
        assert asset.status_code == 200, address
        assert len(asset.content) > 10_000
        assert "max-age" in asset.headers["cache-control"]
        assert asset.headers["content-type"].startswith(("text/css", "text/javascript", "application/javascript"))


def test_the_style_sheet_loads_nothing_from_elsewhere(client):
    style = client.get("/docs/static/swagger-ui.css").text
    fetched = [address for address in re.findall(r"url\(\s*[\"']?([^\"')]+)", style) if not address.startswith("data:")]
    assert fetched == []
    assert "@import" not in style


def test_the_schema_lists_the_handlers_and_how_to_show_a_key(client):
    schema = client.get("/docs/openapi.json").json()
    assert schema["info"]["title"] == "Armwise"
    assert list(schema["paths"]) == ["/pets"]
    assert schema["paths"]["/pets"]["get"]["description"] == "All pets."
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["security"] == [{}, {"key": []}]


def test_files_outside_the_folder_are_not_served(client):
    assert client.get("/docs/static/..%2f..%2fdocs.py").status_code == 404
    assert client.get("/docs/static/absent.js").status_code == 404
