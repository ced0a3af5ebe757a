"""The dashboard's files as they are served: all of them ours, none stale, nothing else; and none that makes markup."""

import re
from pathlib import Path

import pytest
from litestar import Litestar, Response
from litestar.testing import TestClient

from service.api.dashboard import dashboard_handlers
from service.errors import ArmwiseError, http_answer

FOLDER = Path(__file__).parents[1] / "service" / "dashboard"
OURS = sorted(path for path in FOLDER.rglob("*.js") if "vendor" not in path.parts)


@pytest.fixture(scope="module")
def client():
    def refused(_, error):
        status, body, _ = http_answer(error)
        return Response(body, status_code=status)

    app = Litestar(dashboard_handlers(), exception_handlers={ArmwiseError: refused}, logging_config=None)
    with TestClient(app) as opened:
        yield opened


def loaded(client, address):
    """A file and all that it loads, by address."""
    answer = client.get(address)
    assert answer.status_code == 200, address
    text = answer.text
    found = {address: answer}
    linked = re.findall(r"""(?:src|href)=["'](/[^"']+)""", text) if address == "/dashboard" else []
    imported = re.findall(r"""^(?:import .*? from |\} from )"([^"]+)";$""", text, re.MULTILINE)
    for target in [*linked, *(str(answer.url.join(one).path) for one in imported)]:
        found |= loaded(client, target) if target not in found else {}
    return found


def test_the_page_and_everything_it_loads_is_served_with_its_type(client):
    found = loaded(client, "/dashboard")
    assert len(found) == 3 + len(OURS) + 1  # the page, two style sheets, our modules and uPlot
    for address, answer in found.items():
        kind = {".js": "text/javascript", ".css": "text/css"}.get(Path(address).suffix, "text/html")
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8", address


def test_browsers_ask_again_and_are_told_when_nothing_changed(client):
    first = client.get("/dashboard/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/dashboard/main.js", headers={"if-none-match": f'"old", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/dashboard/main.js", headers={"if-none-match": '"old"'}).status_code == 200
    assert client.get("/dashboard/api.js").headers["etag"] != first.headers["etag"]


def test_only_scripts_and_calls_of_this_address_are_allowed(client):
    for address in ("/dashboard", "/dashboard/main.js"):
        policy = client.get(address).headers["content-security-policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert client.get(address).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["absent.js", "../api/dashboard.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd", "vendor/uplot/LICENSE"]
)
def test_nothing_else_is_served(client, path):
    assert client.get(f"/dashboard/{path}").status_code == 404


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_module_makes_markup_or_code_of_text(path):
    text = path.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", text)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert not re.search(r"localStorage|document\.cookie", text)
    assert len(text.splitlines()) <= 200, "probably two panels"


def test_what_is_not_ours_says_whose_it_is():
    folder = FOLDER / "vendor" / "uplot"
    assert "MIT" in (folder / "LICENSE").read_text()
    assert re.search(r"Version: \d+\.\d+\.\d+ of the npm package `uplot`", (folder / "README.md").read_text())
    for built in ("uPlot.esm.js", "uPlot.min.css"):
        assert built in {path.name for path in folder.iterdir()}
