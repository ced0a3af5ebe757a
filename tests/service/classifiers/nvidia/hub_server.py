"""A hub on this machine that speaks what `armwise classifier fetch` relies on, beside it a store for large files."""

import contextlib
import hashlib
import threading
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REPOSITORY = "someone/classifier"
LARGE = (".safetensors", ".model")


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class HubServer:
    """Serves one repository. `faults[name]` holds what happens, in order, to the next downloads of a file."""

    def __init__(self, files, repository=REPOSITORY):
        self.files = dict(files)
        self.repository = repository
        self.token = ""  # when set, asked of every request to the hub
        self.gated = False
        self.ranges = True
        self.relative_redirects = False  # small files are first redirected within the hub, as the real one does
        self.faults = defaultdict(deque)  # name: ("status", 503), ("cut", bytes), ("send", other content)
        self.head_faults = deque()  # statuses for the next descriptions
        self.seen = []  # (server, method, path, headers)
        self.push("first")

    def push(self, name):
        """A new commit with the files as they are now."""
        self.commit = git_id(name.encode())

    def requests(self, server, method):
        return [(path, headers) for where, how, path, headers in self.seen if (where, how) == (server, method)]


def respond(handler, hub, is_store):
    handler.close_connection = True
    where = "store" if is_store else "hub"
    hub.seen.append(
        (where, handler.command, handler.path, {name.lower(): value for name, value in handler.headers.items()})
    )
    path = unquote(handler.path.partition("?")[0])
    if is_store:
        return send_content(handler, hub, path.removeprefix("/"), {})
    path = path.replace("/api/resolve-cache", "")
    repository, _, rest = path.removeprefix("/").partition("/resolve/")
    revision, _, name = rest.partition("/")
    refused = refusal(handler, hub, repository, revision, name)
    if refused is not None:
        return answer(handler, *refused)
    content = hub.files[name]
    headers = {"X-Repo-Commit": hub.commit}
    if name.endswith(LARGE):
        headers |= {
            "X-Linked-ETag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content)),
            "Location": f"{hub.store}/{name}?signature=1",
        }  # fmt: skip
        return answer(handler, 302, headers)
    if hub.relative_redirects and "resolve-cache" not in handler.path:
        return answer(handler, 307, {"Location": f"/api/resolve-cache{handler.path}", **headers})
    return send_content(handler, hub, name, {**headers, "ETag": f'W/"{git_id(content)}"'})


def refusal(handler, hub, repository, revision, name):
    found = None
    if hub.token and handler.headers.get("authorization") != f"Bearer {hub.token}":
        found = 401, "RepoNotFound"
    elif hub.gated:
        found = 403, "GatedRepo"
    elif handler.command == "HEAD" and hub.head_faults:
        found = hub.head_faults.popleft(), ""
    elif repository != hub.repository:
        found = 404, "RepoNotFound"
    elif revision not in {"main", hub.commit}:
        found = 404, "RevisionNotFound"
    elif name not in hub.files:
        found = 404, "EntryNotFound"
    return found and (found[0], {"X-Error-Code": found[1]})


def answer(handler, status, headers):
    handler.send_response(status)
    for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()


def send_content(handler, hub, name, headers):
    content = hub.files[name]
    kind, value = hub.faults[name].popleft() if handler.command == "GET" and hub.faults[name] else ("", None)
    if kind == "status":
        return answer(handler, value, {"Retry-After": "0"})
    if kind == "send":
        content = value
    start, status = 0, 200
    asked = handler.headers.get("range")
    if asked and hub.ranges:
        start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if start >= len(content):
            return answer(handler, 416, {})
    body = content[start:]
    answer(handler, status, {**headers, "Content-Length": str(len(body))})
    if handler.command == "GET":
        with contextlib.suppress(OSError):
            handler.wfile.write(body[:value] if kind == "cut" else body)
    return None


@contextlib.contextmanager
def serving(hub):
    """Run the hub and its store; `hub.url` is where it is."""

    def handler_for(is_store):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                respond(self, hub, is_store)

            def do_HEAD(self):
                respond(self, hub, is_store)

            def log_message(self, *_):
                pass

        return Handler

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler_for(is_store)) for is_store in (False, True)]
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
