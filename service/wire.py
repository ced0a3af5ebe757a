"""The fields we read of OpenAI-compatible requests, replies and stream chunks.

Nothing here is re-encoded: a request goes to the provider as the bytes that came in, field by field, so parameters that
we do not know of pass through unchanged.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from bandit.vocabulary import Limits, ModelTier

NAME_CHARACTERS = 256  # as many as a column holds
MOST_TAGS = 64
Name = Annotated[str, Meta(max_length=NAME_CHARACTERS)]


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message's content: text, an image, a file ..."""

    type: str
    text: str = ""


class Message(msgspec.Struct, frozen=True):
    """One turn of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None

    @property
    def text(self) -> str:
        """The words of the message; images and files left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class FunctionSpec(msgspec.Struct, frozen=True):
    """The function of a tool: its name and the JSON schema of its arguments."""

    name: str
    parameters: dict[str, Any] = {}


class CustomSpec(msgspec.Struct, frozen=True):
    """A tool that takes free text."""

    name: str = ""


class Tool(msgspec.Struct, frozen=True):
    """A tool that the model may call."""

    type: str = "function"
    function: FunctionSpec | None = None
    custom: CustomSpec | None = None


class JsonSchemaSpec(msgspec.Struct, frozen=True):
    """The schema of a structured output."""

    name: str = ""
    schema: dict[str, Any] = {}


class ResponseFormat(msgspec.Struct, frozen=True):
    """Whether JSON was asked for, and of what shape."""

    type: str
    json_schema: JsonSchemaSpec | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """What the client wants to see in the stream."""

    include_usage: bool = False


class Wishes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The optional `router` object of a request: how it wants to be routed. Removed before forwarding."""

    policy: str | None = None
    allow: frozenset[str] | None = None  # names of models
    deny: frozenset[str] = frozenset()
    min_tier: ModelTier = "small"
    max_cost_usd: Annotated[float, Meta(ge=0)] | None = None
    sensitive: bool = False
    explore: bool = True
    session: Name | None = None
    user: Name | None = None
    tags: Annotated[dict[Name, Name], Meta(max_length=MOST_TAGS)] = {}


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat completion request, as far as routing and quality care."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Tool] | None = None
    functions: list[Any] | None = None
    response_format: ResponseFormat | None = None
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=0)] | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None  # of any length: OpenAI's own has no limit
    router: Wishes | None = None

    @property
    def max_output_tokens(self) -> int | None:
        """What the reply may use, under either name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def last_user_text(self) -> str:
        """The words of the last user message; empty when there is none."""
        return next((message.text for message in reversed(self.messages) if message.role == "user"), "")


Fields = dict[str, Raw]  # a request body, field by field, each value as the bytes that came in

_request_decoder = msgspec.json.Decoder(ChatRequest)
_fields_decoder = msgspec.json.Decoder(Fields)


def decode_request(body: bytes) -> tuple[ChatRequest, Fields]:
    """What we read of a request, and all of it, field by field.

    Raises:
        msgspec.DecodeError: not JSON.
        msgspec.ValidationError: JSON of another shape; the message ends with the path.
    """
    return _request_decoder.decode(body), _fields_decoder.decode(body)


_STREAM_OPTIONS_WITH_USAGE = Raw(b'{"include_usage":true}')


def upstream_body(fields: Fields, model: str, *, ask_usage: bool) -> bytes:
    """The body for a provider: everything the client sent but `router`, with the provider's model name.

    With `ask_usage`, a stream is asked to end with its usage, whatever else the client's `stream_options` say.
    """
    sent = {key: value for key, value in fields.items() if key != "router"}
    sent["model"] = Raw(msgspec.json.encode(model))
    if ask_usage:
        options = sent.get("stream_options")
        if options is None or bytes(options) == b"null":
            sent["stream_options"] = _STREAM_OPTIONS_WITH_USAGE
        else:
            merged = {**msgspec.json.decode(options, type=dict[str, Raw]), "include_usage": Raw(b"true")}
            sent["stream_options"] = Raw(msgspec.json.encode(merged))
    return msgspec.json.encode(sent)


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Breakdown of prompt tokens."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens read from the provider's cache."""
        return (self.prompt_tokens_details.cached_tokens or 0) if self.prompt_tokens_details else 0


class FunctionCall(msgspec.Struct, frozen=True):
    """A function the model wants called; in a stream, a piece of one."""

    name: str | None = None
    arguments: str | None = None


class CustomCall(msgspec.Struct, frozen=True):
    """A tool that takes free text and that the model wants called; in a stream, a piece of that."""

    name: str | None = None
    input: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """A tool call of a reply; in a stream, a piece of one, joined by `index`."""

    function: FunctionCall = FunctionCall()
    custom: CustomCall | None = None
    index: int = 0
    id: str | None = None

    @property
    def called(self) -> FunctionCall:
        """What is called with what: of a tool that takes free text, that text."""
        return self.function if self.custom is None else FunctionCall(self.custom.name, self.custom.input)


class ReplyMessage(msgspec.Struct, frozen=True):
    """A reply's message, or a chunk's delta."""

    role: str | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None


class Alternative(msgspec.Struct, frozen=True):
    """One of a reply's choices."""

    message: ReplyMessage = ReplyMessage()
    finish_reason: str | None = None
    index: int = 0


class ChatReply(msgspec.Struct, frozen=True):
    """A chat completion, as far as metering and quality care."""

    choices: list[Alternative]
    id: str = ""
    usage: Usage | None = None


class AlternativeDelta(msgspec.Struct, frozen=True):
    """What a chunk adds to one choice."""

    delta: ReplyMessage = ReplyMessage()
    finish_reason: str | None = None
    index: int = 0


class ChatChunk(msgspec.Struct, frozen=True):
    """A chunk of a stream, as far as relaying, metering and quality care."""

    choices: list[AlternativeDelta] = []
    id: str | None = None
    usage: Usage | None = None
    error: Any = None


reply_decoder = msgspec.json.Decoder(ChatReply)
chunk_decoder = msgspec.json.Decoder(ChatChunk)


def limits_of(request: ChatRequest, needs: frozenset[Any]) -> Limits:
    """What a request allows, from its wishes."""
    wishes = request.router or Wishes()
    return Limits(
        allow=wishes.allow,
        deny=wishes.deny,
        needs=needs,
        min_tier=wishes.min_tier,
        max_cost_usd=wishes.max_cost_usd,
        sensitive=wishes.sensitive,
        explore=wishes.explore,
    )
