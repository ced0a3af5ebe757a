"""A model of your own server, added to the settings and asked through a running Armwise.

The server is a stand-in on this machine that speaks OpenAI's protocol, as vLLM, Ollama and llama.cpp do.

Run it: .venv/bin/python docs/examples/model.py
"""

import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import uvicorn

from service.app import create_app
from service.configuration import describe, settings_from_toml
from service.serving import listen

SETTINGS = """
[database]
url = "sqlite:///{folder}/armwise.db"

[[models]]
name = "ours"                       # what callers, policies and feedback know it by
provider = "openai_compatible"
base_url = "{server}/v1"
model = "llama3.1:8b"               # what the server knows it by
tier = "small"                      # what is believed of it before any feedback
local = true                        # sensitive prompts may go there
price_in = 0.02                     # USD per million tokens: of electricity, if you like
price_out = 0.05

[[models]]
name = "large"
provider = "simulated"
tier = "large"
price_in = 1.25
price_out = 10.0
"""


class _Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": f"I am {asked['model']}."}
        reply: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"]}
        reply["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        reply["usage"] = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 12}
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def model_server() -> Iterator[str]:
    """The stand-in; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def armwise(settings: str) -> Iterator[str]:
    """Armwise with these settings, as `armwise serve` runs it; its address."""
    understood = settings_from_toml(settings, os.environ)
    print(describe(understood))  # what `armwise check` prints
    with listen("127.0.0.1", 0) as socket:
        server = uvicorn.Server(uvicorn.Config(create_app(understood), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def main() -> None:
    """Ask the new model by its name. For `"model": "auto"` it is drawn, as often as it is likely to be the best."""
    with (
        tempfile.TemporaryDirectory() as folder,
        model_server() as server,
        armwise(SETTINGS.format(folder=folder, server=server)) as url,
    ):
        body = {"model": "ours", "messages": [{"role": "user", "content": "Who are you?"}]}
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:  # noqa: S310 - likewise
            answer = json.load(reply)
        print(f"{answer['routing']['model']}: {answer['choices'][0]['message']['content']}")


if __name__ == "__main__":
    main()
