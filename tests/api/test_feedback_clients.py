"""The two clients for feedback, against the real service and against one that fails."""

import asyncio
import json
import math
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from armwise.feedback import Feedback, FeedbackNotSent, FeedbackRefused
from tests.api.asking import ask

CLIENT = Path(__file__).parents[2] / "clients/javascript/armwise-feedback.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


@pytest.fixture
def stub():
    """A server that gives one answer after the other: (status, headers, body). `calls` keeps what came."""
    servers = []

    def start(*answers):
        waiting = list(answers)
        calls = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                calls.append((self.path, dict(self.headers.items()), json.loads(body)))
                status, headers, content = waiting.pop(0)
                if status is None:  # hang up
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):  # what a redirect would lead to
                calls.append((self.path, dict(self.headers.items()), None))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}", calls

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def error(message, code=None):
    return json.dumps({"error": {"message": message, "code": code}}).encode()


RECORDED = (200, {}, b'{"status": "recorded"}')
AWAY = (503, {}, error("The database cannot be written now."))


# Python


async def give(feedback, *args, **said):
    return await asyncio.to_thread(feedback.give, *args, **said)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_a_thumb_is_recorded_and_the_same_again_changes_nothing(service, http, path):
    reply = await ask(http)
    feedback = Feedback(service.url + path)
    assert await give(feedback, reply["id"], True, user="ann") == "recorded"
    assert await give(feedback, reply["id"], True, user="ann") == "unchanged"
    assert await give(feedback, reply["id"], "down", user="ann") == "replaced"
    assert await give(feedback, reply["id"], rating=4, scale=5, source="judge") == "recorded"
    assert await give(feedback, reply["id"], 0.5, user="bob", dryrun=True) == "dryrun"


async def test_a_refusal_says_why_and_is_not_tried_again(service, http):
    waits = []
    feedback = Feedback(service.url, sleep=waits.append)
    with pytest.raises(FeedbackRefused, match="No decision has the id `nobody`") as caught:
        await give(feedback, "nobody", True)
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    reply = await ask(http)
    with pytest.raises(FeedbackRefused, match="a score lies in"):
        await give(feedback, reply["id"], 7)
    assert waits == []


async def test_many_go_in_calls_of_a_thousand(service, http):
    reply = await ask(http)
    every = [{"decision_id": reply["id"], "value": True, "user": f"u{n}", "dryrun": True} for n in range(1_001)]
    results = await asyncio.to_thread(Feedback(service.url).give_all, [*every, {"decision_id": "nobody", "value": 0}])
    assert [one["status"] for one in results] == ["dryrun"] * 1_001 + ["unknown_decision"]
    assert "No decision" in results[-1]["error"]["message"]


def test_what_passes_is_tried_again_with_growing_waits(stub):
    url, calls = stub(AWAY, (None, {}, b""), (502, {}, b"<html>"), RECORDED)
    waits = []
    assert Feedback(url, key="aw-k\n", sleep=waits.append).give("d", True) == "recorded"
    assert waits == [0.25, 1.0, 4.0]
    assert [body for _, _, body in calls] == [{"decision_id": "d", "value": True}] * 4
    assert {path for path, _, _ in calls} == {"/v1/feedback"}
    assert calls[0][1]["Authorization"] == "Bearer aw-k"


def test_the_services_own_wait_is_kept_within_ten_seconds(stub):
    after = [(429, {"retry-after": told}, error("slow down")) for told in ("3", "900", "soon")]
    waits = []
    assert Feedback(stub(*after, RECORDED)[0], sleep=waits.append).give("d", True) == "recorded"
    assert waits == [3.0, 10.0, 4.0]


def test_it_gives_up_after_its_tries(stub):
    url, calls = stub(AWAY, AWAY)
    waits = []
    with pytest.raises(FeedbackNotSent, match=r"in 2 tries.*cannot be written now. \(HTTP 503\)"):
        Feedback(url, tries=2, sleep=waits.append).give("d", True)
    assert (len(calls), len(waits)) == (2, 1)


def test_nobody_there(free_port):
    with pytest.raises(FeedbackNotSent, match="refused"):
        Feedback(f"http://127.0.0.1:{free_port}", tries=1).give("d", True)


def test_a_key_is_not_carried_elsewhere(stub):
    elsewhere, stolen = stub(RECORDED)
    url, _ = stub((302, {"location": elsewhere}, b""))
    with pytest.raises(FeedbackRefused, match="HTTP 302"):
        Feedback(url, key="aw-secret").give("d", True)
    assert stolen == []


def test_an_answer_of_something_else_is_no_success(stub):
    url, _ = stub((200, {}, b'{"hello": 1}'), (200, {}, b"<html>"), (200, {}, b"[]"))
    with pytest.raises(FeedbackNotSent):
        Feedback(url, tries=3, sleep=lambda _: None).give("d", True)


def test_what_cannot_be_right_is_said_at_once():
    with pytest.raises(ValueError, match="expected http"):
        Feedback("127.0.0.1:8402")
    with pytest.raises(ValueError, match="`tries` is 0"):
        Feedback("http://127.0.0.1:8402", tries=0)
    with pytest.raises(ValueError, match="expected aw-") as caught:
        Feedback("http://127.0.0.1:8402", key="aw-sec\nret")
    assert "ret" not in str(caught.value)
    with pytest.raises(ValueError, match="not JSON compliant"):
        Feedback("http://127.0.0.1:8402").give("d", math.nan)


def test_it_needs_nothing_but_the_standard_library():
    import sys

    code = "import sys; before = set(sys.modules); import armwise.feedback; print(*(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CLIENT.parents[2]
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded <= {*sys.stdlib_module_names, "armwise"}


# JavaScript


async def javascript(line, *args):
    """What an async expression gives, or the message it fails with, in node."""
    code = f"""
        import {{ feedback }} from {json.dumps(CLIENT.as_uri())};
        const args = {json.dumps(args)};
        const waits = [];
        const wait = async (ms) => void waits.push(ms);
        try {{ console.log(JSON.stringify({{ gave: await ({line}), waits }})); }}
        catch (failure) {{ console.log(JSON.stringify({{ failed: failure.message, waits }})); }}
    """
    done = await asyncio.to_thread(
        subprocess.run,
        [NODE, "--input-type=module", "-e", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_javascript_client_has_twenty_lines():
    assert len(CLIENT.read_text(encoding="utf-8").splitlines()) <= 20


@needs_node
async def test_javascript_gives_feedback(service, http):
    reply = await ask(http)
    line = "feedback(args[0])(args[1], args[2], { user: 'ann' })"
    for value, status in [(True, "recorded"), (True, "unchanged"), ("down", "replaced")]:
        assert await javascript(line, service.url, reply["id"], value) == {"gave": status, "waits": []}


@needs_node
async def test_javascript_says_why_it_was_refused(service):
    answer = await javascript("feedback(args[0], { wait })('nobody', true)", service.url)
    assert answer == {"failed": "No decision has the id `nobody`.", "waits": []}


@needs_node
async def test_javascript_tries_again_and_shows_its_key(stub):
    url, calls = stub(AWAY, (None, {}, b""), (502, {}, b"<html>"), RECORDED)
    answer = await javascript("feedback(args[0], { key: 'aw-k', wait })('d', true)", url)
    assert answer == {"gave": "recorded", "waits": [250, 1_000, 4_000]}
    assert {headers["authorization"] for _, headers, _ in calls} == {"Bearer aw-k"}


@needs_node
async def test_javascript_gives_up(stub):
    answer = await javascript("feedback(args[0], { tries: 2, wait })('d', true)", stub(AWAY, AWAY)[0])
    assert answer == {"failed": "The database cannot be written now.", "waits": [250]}
