"""Log lines: text for people, or one JSON object a line. Never a prompt, a reply or a secret.

Foreign exceptions may repeat whatever they met, so of them a line says the type and where in the code, not the words.
While a request is handled, every line names it.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from service.errors import ArmwiseError, UpstreamFailure
from service.mistakes import suggestion
from service.providers.keys import likely_keys, scrub
from service.settings import OpenAICompatibleModel, Settings

ACCESS = "armwise.access"
REQUEST_ID = b"x-request-id"

_OURS, _SERVER, _SENDER = "armwise", "uvicorn", "opentelemetry"
_OTHERS = (_OURS, ACCESS, _SERVER, _SENDER)  # that may be named beside the modules
_FOLDER = Path(__file__).parent
_SANE_ID = re.compile(rb"[!-~]{1,128}")
_OUR_KEY = re.compile(r"\baw-[\w-]{8,}")
_CONTROL = {code: repr(chr(code))[1:-1] for code in (*range(9), *range(11, 32), 127, 133, 8232, 8233)}
_MOST_CHARACTERS = 8_000  # of a message: cleaning as many takes a millisecond
_MOST_FRAMES = 20  # of a traceback, the last ones
_PROCESS = os.urandom(5).hex()
_numbers = count(1)
_access = logging.getLogger(ACCESS)


class Handled:
    """A request while it is handled."""

    __slots__ = ("decision_id", "id", "model")

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.decision_id = ""  # once it is decided
        self.model = ""  # once it is answered


handled: ContextVar[Handled | None] = ContextVar("handled", default=None)


def handle(headers: Mapping[bytes, bytes]) -> Handled:
    """Begin a request: its id is the client's when that is short and printable, else a new one."""
    given = headers.get(REQUEST_ID, b"")
    sane = _SANE_ID.fullmatch(given) is not None
    request = Handled(given.decode() if sane else f"{_PROCESS}-{next(_numbers):x}")
    handled.set(request)
    return request


def decided(decision_id: str) -> None:
    """Let the request's access line name its decision."""
    if (request := handled.get()) is not None:
        request.decision_id = decision_id


def access_line(request: Handled, method: str, path: str, status: int, seconds: float) -> None:
    """Write a request's line, at debug: writing costs about as much as deciding."""
    if _access.isEnabledFor(logging.DEBUG):
        fields = {
            "method": method,
            "path": path,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "decision_id": request.decision_id,
            "model": request.model,
        }
        words = " ".join(f"{name}={fields[name]}" for name in ("decision_id", "model") if fields[name])
        _access.debug("%s %s %s %s ms %s", method, path, status, fields["ms"], words, extra={"fields": fields})


# Names and levels


@lru_cache(maxsize=1024)
def module_name(logger: str, path: str) -> str:
    """Who wrote a line: our modules share one logger, and the file that a line was written in tells them apart.

    >>> module_name("armwise", str(_FOLDER / "experiments" / "looks.py"))
    'armwise.experiments.looks'
    """
    if logger != _OURS or not Path(path).is_relative_to(_FOLDER):
        return logger
    parts = Path(path).relative_to(_FOLDER).with_suffix("").parts
    return ".".join((_OURS, *(part for part in parts if part != "__init__")))


def unknown_modules(levels: Mapping[str, str]) -> Iterator[str]:
    """A mistake for each name that stands in nobody's lines."""
    if not levels:
        return
    files = {module_name(_OURS, str(file)): file for file in _FOLDER.rglob("*.py")}
    for name in levels:
        if name not in {*_OTHERS, *files}:
            writers = {module for module, file in files.items() if "getLogger(" in file.read_text(encoding="utf-8")}
            hint = suggestion(name, sorted({*_OTHERS, *writers}))
            yield f'`logging.levels."{name}"` is no module that writes lines{hint}'


class ByModule(logging.Filter):
    """Lets through what is at or above its module's level; the nearest name above a module holds for it."""

    def __init__(self, level: str, levels: Mapping[str, str]) -> None:
        super().__init__()
        numbers = logging.getLevelNamesMapping()
        words = {_OURS: level, _SENDER: "error", **levels}  # a collector that is away is told once, not at each try
        self._levels = {name: numbers[word.upper()] for name, word in words.items()}
        self._found: dict[str, int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        name = module_name(record.name, record.pathname)
        if name not in self._found:
            self._found[name] = self.level_of(name)
        return record.levelno >= self._found[name]

    def level_of(self, name: str) -> int:
        """The level from which lines of that name are written. Of other libraries we want to hear faults only."""
        while name:
            if name in self._levels:
                return self._levels[name]
            name = name.rpartition(".")[0]
        return logging.WARNING

    def lowest(self, family: str) -> int:
        """The lowest level of a name and all below it."""
        inside = [level for name, level in self._levels.items() if name == family or name.startswith(f"{family}.")]
        return min([*inside, self.level_of(family)])


# What a line says


def words_of(error: BaseException) -> str:
    """An exception's message where we or the system wrote it; of others, which may repeat a prompt, the type alone."""
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - a command that only checks settings does without

    match error:
        case UpstreamFailure():
            return f"{error.kind}, status {error.status}"
        case OperationalError():
            return next(iter(str(error.orig).splitlines()), "")
        case ArmwiseError() | OSError() | ImportError() | MemoryError():
            return str(error)
    return f"{type(error).__name__} (its message is not logged: it may repeat a prompt)"


def traceback_of(error: BaseException) -> str:
    """Where an exception came from: lines of code, and no values."""
    return "\n".join(_told(error, set()))


def _told(error: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in told:
        yield from _told(cause, told)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield from (line.rstrip("\n") for line in traceback.format_tb(error.__traceback__, limit=-_MOST_FRAMES))
    kind, words = type(error).__name__, words_of(error)
    yield words if words.startswith(kind) else f"{kind}: {words}"
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            if id(inner) not in told:
                yield from _told(inner, told)


class Lines(logging.Formatter):
    """What both forms share: the message without what must not be in it, the traceback, the request."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """The fields of a line, in their order; those that are empty are left out."""
        request = handled.get()
        name = module_name(record.name, record.pathname)
        message = self._message(record)
        if name.partition(".")[0] != _OURS:  # the first line is the library's own; others show values
            message = message.partition("\n")[0]
        error = record.exc_info[1] if record.exc_info else None
        found = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": name,
            "request_id": request.id if request is not None else "",
            "message": self._clean(message),
            "traceback": self._clean(traceback_of(error)) if error is not None else "",
        }
        return {field: value for field, value in found.items() if value}

    @staticmethod
    def _message(record: logging.LogRecord) -> str:
        if isinstance(record.msg, BaseException):
            return words_of(record.msg)
        if not record.args:
            return str(record.msg)
        args = record.args
        if isinstance(args, tuple):
            args = tuple(words_of(value) if isinstance(value, BaseException) else value for value in args)
        try:
            return str(record.msg) % args
        except (TypeError, ValueError):
            return f"{record.msg} (with values that do not fit)"

    def _clean(self, text: str) -> str:
        if len(text) > _MOST_CHARACTERS:  # up to a space: half a key would not be known for one
            kept = text[:_MOST_CHARACTERS].rpartition(" ")[0]
            text = f"{kept} ... ({len(text) - len(kept):,} characters more)"
        text = text.encode("utf-8", "backslashreplace").decode()
        return _OUR_KEY.sub("[secret]", scrub(text, self._secrets))


class TextLines(Lines):
    """For people. What follows a first line is indented, so nothing in a message can pass for a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        found = self.parts(record)
        request = f" [{found['request_id']}]" if "request_id" in found else ""
        text = "\n".join(found[field] for field in ("message", "traceback") if field in found)
        indented = text.translate(_CONTROL).replace("\n", "\n    ")
        return f"{found['time']} {found['level'].upper():7} {found['logger']}{request}: {indented}"


class JsonLines(Lines):
    """For machines: one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, logger, request_id, message, traceback, and an access line's fields."""
        found = self.parts(record)
        fields = {name: value for name, value in getattr(record, "fields", {}).items() if value != ""}
        return msgspec.json.encode({**found, **fields}).decode()


def secrets_of(settings: Settings, environ: Mapping[str, str]) -> frozenset[str]:
    """Values of the environment that must not be in any line."""
    names = {settings.database.url_env, settings.drift.webhook_url_env}
    password = urlsplit(environ.get(settings.database.url_env, "")).password or ""
    for model in settings.models:
        names.add(getattr(model, "api_key_env", ""))
        if isinstance(model, OpenAICompatibleModel):
            names |= {value[1:] for value in model.headers.values() if value.startswith("$")}
    exporter = environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    headers = {pair.partition("=")[2].strip() for pair in exporter.split(",")}
    return (frozenset(environ.get(name, "") for name in names) | headers | {password} | likely_keys()) - {""}


def configure_logging(settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
    """Send everything to standard error in the configured format, each module's lines from its level on."""
    kind = JsonLines if settings.logging.format == "json" else TextLines
    chosen = ByModule(settings.logging.level, settings.logging.levels)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(kind(secrets_of(settings, environ)))
    handler.addFilter(chosen)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for family in (*_OTHERS, "uvicorn.error"):
        logging.getLogger(family).setLevel(chosen.lowest(family))
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """In the place of Python's own, which prints the exception's words."""
    if failed.exc_value is not None:
        name = failed.thread.name if failed.thread is not None else "?"
        logging.getLogger(_OURS).error("the thread %s ended by a fault", name, exc_info=failed.exc_value)
