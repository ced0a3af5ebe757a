"""A chat page with thumbs, in one file: the browser asks and rates this program, this program asks and tells Armwise.

The key stays here. A reader's thumb counts for the reply they were shown, and only if it was shown by us.

Run it beside `make run`: .venv/bin/python docs/examples/web_app.py, then open http://127.0.0.1:8500
"""

import json
import os
import secrets
import threading
import urllib.request
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from armwise.feedback import Feedback, FeedbackError

ARMWISE = os.environ.get("ARMWISE_URL", "http://127.0.0.1:8402")
KEY = os.environ.get("ARMWISE_API_KEY", "")  # with the scopes chat and feedback

PAGE = """<!doctype html><meta charset="utf-8"><title>Ask</title>
<form id="ask"><input name="question" size="60" autofocus><button>Ask</button></form>
<p id="reply"></p>
<p id="rate" hidden>Was this good? <button value="up">👍</button><button value="down">👎</button></p>
<script>
  const post = (path, body) => fetch(path, { method: "POST", body: JSON.stringify(body),
    headers: { "content-type": "application/json" } }).then((reply) => reply.json());
  let id;
  document.querySelector("#ask").onsubmit = async (event) => {
    event.preventDefault();
    const asked = await post("/ask", { question: event.target.question.value });
    id = asked.id;
    document.querySelector("#reply").textContent = asked.text;
    document.querySelector("#rate").hidden = false;
  };
  document.querySelector("#rate").onclick = async (event) => {
    if (event.target.value) await post("/rate", { id, value: event.target.value });
    document.querySelector("#rate").hidden = true;
  };
</script>"""


class Shop:
    """What every request shares: which reply was shown to whom."""

    def __init__(self, armwise: str = ARMWISE, key: str = KEY) -> None:
        self._armwise, self._key = armwise, key
        self._feedback = Feedback(armwise, key=key)
        self._shown: dict[str, str] = {}  # decision id -> reader; yours belongs in your database
        self._lock = threading.Lock()

    def ask(self, question: str, reader: str) -> dict[str, str]:
        """Ask Armwise on behalf of a reader."""
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": question}],
            "router": {"user": reader},  # so that asking the same again soon counts as a sign
        }
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self._armwise}/v1/chat/completions", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=120) as reply:  # noqa: S310 - likewise
            answer: dict[str, Any] = json.load(reply)
        with self._lock:
            self._shown[answer["id"]] = reader
        return {"id": answer["id"], "text": answer["choices"][0]["message"]["content"]}

    def rate(self, decision_id: str, value: Any, reader: str) -> dict[str, str]:
        """Hand a thumb on, of the reader who was shown the reply; `user` lets Armwise bound what one reader weighs."""
        if self._shown.get(decision_id) != reader or value not in {"up", "down"}:
            return {"status": "refused"}
        try:
            return {"status": self._feedback.give(decision_id, value, user=reader)}
        except FeedbackError as error:
            return {"status": "failed", "why": str(error)}


def handler(shop: Shop) -> type[BaseHTTPRequestHandler]:
    """The pages of a shop."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reader = self._reader() or secrets.token_hex(8)
            self._answer(200, "text/html; charset=utf-8", PAGE, {"set-cookie": f"reader={reader}; HttpOnly; Path=/"})

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reader = self._reader()
            if self.path == "/ask":
                answer = shop.ask(str(given["question"]), reader)
            else:
                answer = shop.rate(str(given["id"]), given["value"], reader)
            self._answer(200, "application/json", json.dumps(answer), {})

        def _reader(self) -> str:
            try:
                found = SimpleCookie(self.headers.get("cookie", "")).get("reader")
            except CookieError:
                return ""
            return found.value if found else ""

        def _answer(self, status: int, kind: str, text: str, headers: dict[str, str]) -> None:
            content = text.encode()
            self.send_response(status)
            for name, value in {"content-type": kind, "content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Pages


if __name__ == "__main__":
    print("http://127.0.0.1:8500")
    ThreadingHTTPServer(("127.0.0.1", 8500), handler(Shop())).serve_forever()
