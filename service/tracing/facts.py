"""What spans say of models, requests, decisions and replies: attribute names of the conventions, and `armwise.*`.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans, as of version 1.37 and later: `gen_ai.provider.name`,
messages as JSON. Prompts are only in `messages`.
"""

import contextlib
from typing import Any
from urllib.parse import urlsplit

import msgspec

from service.classifiers import excerpt
from service.decide import Decision
from service.relay import payloads, split_events
from service.settings import AnyModel, OpenAICompatibleModel, SimulatedModel
from service.wire import ChatRequest, Usage

Facts = dict[str, Any]

_READ_BYTES = 20_000  # of a long stream, at its beginning and at its end: the usage stands at the end
_MESSAGE_CHARACTERS, _ALL_CHARACTERS = 8_000, 32_000  # of captured prompts

# The conventions' names of providers, by host and by LiteLLM's names.
_BY_HOST = {
    "api.openai.com": "openai", "api.anthropic.com": "anthropic", "api.deepseek.com": "deepseek",
    "api.groq.com": "groq", "api.mistral.ai": "mistral_ai", "api.perplexity.ai": "perplexity", "api.x.ai": "x_ai",
    "api.cohere.com": "cohere", "generativelanguage.googleapis.com": "gcp.gemini",
}  # fmt: skip
_BY_LITELLM = {
    "azure": "azure.ai.openai", "azure_ai": "azure.ai.inference", "bedrock": "aws.bedrock", "gemini": "gcp.gemini",
    "mistral": "mistral_ai", "vertex_ai": "gcp.vertex_ai", "watsonx": "ibm.watsonx.ai", "xai": "x_ai",
}  # fmt: skip


def of_model(model: AnyModel) -> Facts:
    """What every call to a model has in common."""
    facts: Facts = {"gen_ai.operation.name": "chat", "gen_ai.request.model": model.upstream_model}
    if isinstance(model, SimulatedModel):
        return {**facts, "gen_ai.provider.name": "simulated"}
    address = urlsplit(model.base_url)
    if isinstance(model, OpenAICompatibleModel):
        facts["gen_ai.provider.name"] = _BY_HOST.get(address.hostname or "", "openai_compatible")
    else:
        vendor, slash, _ = model.upstream_model.partition("/")
        facts["gen_ai.provider.name"] = _BY_LITELLM.get(vendor, vendor) if slash else "openai"
    if address.hostname:
        facts["server.address"] = address.hostname
        facts["server.port"] = address.port or (80 if address.scheme == "http" else 443)
    return facts


def of_request(chat: ChatRequest, *, streamed: bool) -> Facts:
    """What was asked for; nothing of the prompt."""
    facts: Facts = {"gen_ai.request.stream": True} if streamed else {}
    if chat.max_output_tokens is not None:
        facts["gen_ai.request.max_tokens"] = chat.max_output_tokens
    if chat.n is not None and chat.n != 1:
        facts["gen_ai.request.choice.count"] = chat.n
    if chat.response_format is not None:
        facts["gen_ai.output.type"] = "json" if chat.response_format.type.startswith("json") else "text"
    if chat.router is not None and chat.router.session:
        facts["gen_ai.conversation.id"] = chat.router.session
    return facts


def of_classification(decision: Decision) -> Facts:
    """What the prompt was taken for, and how."""
    profile, trace = decision.profile, decision.classified
    facts: Facts = {
        "armwise.classifier": profile.classifier,
        "armwise.task_type": profile.task_type,
        "armwise.tier": profile.tier,
    }
    if trace is not None:
        facts |= {"armwise.classifier.cached": trace.cached, "armwise.classifier.queue_s": trace.queue_s}
        if trace.fallback:
            facts["armwise.classifier.fallback"] = trace.fallback
    return facts


def of_choice(decision: Decision) -> Facts:
    """Which model was drawn, from which, and how likely that was."""
    choice = decision.choice
    return {
        "armwise.policy": choice.policy,
        "armwise.method": decision.method,
        "armwise.drawn_model": choice.arm,
        "armwise.propensity": choice.propensity,
        "armwise.eligible": list(choice.arms),
        "armwise.plan": list(decision.plan),
    }


def of_decision(decision: Decision) -> Facts:
    """What the request's own span says."""
    facts: Facts = {
        "armwise.decision_id": decision.id,
        "armwise.policy": decision.choice.policy,
        "armwise.method": decision.method,
        "armwise.task_type": decision.profile.task_type,
        "armwise.tier": decision.profile.tier,
        "armwise.drawn_model": decision.choice.arm,
        "armwise.propensity": decision.choice.propensity,
    }
    if decision.assigned is not None:
        facts["armwise.experiment"] = decision.assigned.experiment
        facts["armwise.variant"] = decision.assigned.variant
    return facts


class _Choice(msgspec.Struct, frozen=True):
    finish_reason: str | None = None


class _Reply(msgspec.Struct, frozen=True):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: Usage | None = None


_reply_decoder = msgspec.json.Decoder(_Reply)


def of_reply(raw: bytes) -> Facts:
    """What a reply says of itself, its words left out."""
    return _of_replies([_reply_decoder.decode(raw)])


def of_stream(events: bytes) -> Facts:
    """The same of the events of a stream, as the provider sent them."""
    if len(events) > 2 * _READ_BYTES:
        events = split_events(events[:_READ_BYTES])[0] + events[-_READ_BYTES:].partition(b"\n\n")[2]
    chunks = []
    for payload in payloads(events):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # a broken stream is told elsewhere
            chunks.append(_reply_decoder.decode(payload))
    return _of_replies(chunks)


def _of_replies(replies: list[_Reply]) -> Facts:
    facts: Facts = {}
    for reply in replies:
        if reply.id:
            facts.setdefault("gen_ai.response.id", reply.id)
        if reply.model:
            facts.setdefault("gen_ai.response.model", reply.model)
        if reasons := [choice.finish_reason for choice in reply.choices if choice.finish_reason]:
            facts["gen_ai.response.finish_reasons"] = [*facts.get("gen_ai.response.finish_reasons", ()), *reasons]
        if reply.usage is not None:
            facts["gen_ai.usage.input_tokens"] = reply.usage.prompt_tokens
            facts["gen_ai.usage.output_tokens"] = reply.usage.completion_tokens
            if reply.usage.cached_tokens:
                facts["gen_ai.usage.cache_read.input_tokens"] = reply.usage.cached_tokens
    return facts


def sensitive(chat: ChatRequest) -> bool:
    """Whether a request's prompt may not leave the owner's machines."""
    return chat.router is not None and chat.router.sensitive


def messages(chat: ChatRequest) -> str:
    """The words of a prompt in the conventions' form, as JSON: of long messages head and tail, of many the last."""
    kept: list[dict[str, object]] = []
    left = _ALL_CHARACTERS
    for message in reversed(chat.messages):
        text = excerpt(message.text, min(_MESSAGE_CHARACTERS, left))
        left -= len(text)
        kept.append({"role": message.role, "parts": [{"type": "text", "content": text}]})
        if left <= 0:
            break
    return msgspec.json.encode(kept[::-1]).decode()
