"""Log lines: two forms, levels by module, the request in every line, and never a prompt or a secret."""

import asyncio
import io
import json
import logging
import sys
import threading
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy.exc import OperationalError

from service import logs
from service.configuration import settings_from_toml
from service.errors import ConfigurationError, StorageUnavailable, UpstreamFailure
from service.logs import ByModule, JsonLines, TextLines
from service.settings import Logging, OpenAICompatibleModel, Settings
from tests.api.served import served

KEY = "hunter2-hunter2-hunter2"
PROMPT = "my passport number is 4711 0815"
SERVICE = Path(logs.__file__).parent


@pytest.fixture
def request_id():
    """A request is being handled."""
    token = logs.handled.set(logs.Handled("id-of-this-request"))
    yield "id-of-this-request"
    logs.handled.reset(token)


def record(message, *args, logger="armwise", path="elsewhere.py", level=logging.ERROR, error=None):
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord(logger, level, str(path), 1, message, args, exc_info)


def raised(error, cause=None):
    """An exception as it is caught."""
    try:
        raise error from cause
    except type(error) as found:
        return found


# Forms


def test_a_line_for_machines(request_id):
    found = json.loads(
        JsonLines().format(record("%s rows wait", 3, path=SERVICE / "storage" / "writer.py", level=logging.WARNING))
    )
    assert found.pop("time").startswith("20")
    assert found == {
        "level": "warning", "logger": "armwise.storage.writer", "request_id": request_id, "message": "3 rows wait",
    }  # fmt: skip


def test_a_line_for_people(request_id):
    line = TextLines().format(record("%s rows wait", 3, path=SERVICE / "experiments" / "looks.py"))
    assert line.endswith(f"ERROR   armwise.experiments.looks [{request_id}]: 3 rows wait")


def test_outside_of_a_request_none_is_named():
    assert "request_id" not in json.loads(JsonLines().format(record("started")))
    assert TextLines().format(record("started")).endswith("ERROR   armwise: started")


def test_nothing_in_a_message_can_pass_for_a_line_of_its_own():
    line = TextLines().format(record("GET %s failed", "/a\n2026-01-01 INFO armwise: forged\r\x1b[2J"))
    first, second = line.split("\n")
    assert first.endswith("GET /a")
    assert second == "    2026-01-01 INFO armwise: forged\\r\\x1b[2J failed"
    assert json.loads(JsonLines().format(record("%s", "a\nb\ud800")))["message"] == "a\nb\\ud800"


async def test_the_request_is_named_in_threads_too(request_id):
    line = await asyncio.to_thread(JsonLines().format, record("in a thread"))
    assert json.loads(line)["request_id"] == request_id


# What must not be in a line


@pytest.mark.parametrize("form", [JsonLines, TextLines])
@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"cannot read {PROMPT!r}"),
        KeyError(PROMPT),
        UnicodeDecodeError("utf-8", PROMPT.encode(), 0, 1, PROMPT),
        ExceptionGroup("two", [ValueError(PROMPT), OSError(f"no access with {KEY}")]),
        UpstreamFailure("server_error", f"the provider says: {PROMPT}"),
        raised(RuntimeError("outer"), cause=ValueError(PROMPT)),
        OperationalError("INSERT ...", {"text": PROMPT}, OSError(f"no login with {KEY}"), hide_parameters=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_of_a_foreign_exception_its_type_and_place_are_written_not_its_words(form, error):
    line = form([KEY]).format(record("%s failed: %s", "it", error, error=raised(error)))
    assert PROMPT not in line
    assert "4711" not in line
    assert KEY not in line
    assert type(error).__name__ in line
    assert "test_logs.py" in line


@pytest.mark.parametrize("form", [JsonLines, TextLines])
def test_the_words_of_errors_that_we_or_the_system_wrote_are_kept(form):
    ours = StorageUnavailable("The database did not take a write within 2 s.")
    assert "within 2 s" in form().format(record("not stored: %s", ours))
    assert "database is locked" in form().format(
        record("no writes: %s", OperationalError("INSERT", {}, Exception("database is locked\nDETAIL: x")))
    )
    assert "No space left" in form().format(record("x", error=raised(OSError(28, "No space left on device"))))
    assert "ZeroDivisionError" in form().format(record("x", error=raised(ZeroDivisionError("division by zero"))))


@pytest.mark.parametrize("form", [JsonLines, TextLines])
@pytest.mark.parametrize("secret", [KEY, "aw-abcdefghijkl1234", "sk-proj-1234567890", "Bearer abcdefgh12345678"])
def test_a_secret_in_a_message_is_taken_out(form, secret):
    line = form([KEY]).format(record("called with %s by %s", secret, "him"))
    assert secret not in line
    assert "[secret] by him" in line


def test_a_library_that_shows_values_below_its_first_line_is_cut():
    told = f"Task exception was never retrieved\nfuture: <Task exception=ValueError('{PROMPT}')>"
    assert PROMPT not in TextLines().format(record(told, logger="asyncio"))


def test_a_long_message_is_cut_between_two_words():
    line = TextLines([KEY]).format(record("%s", "word " * 1_598 + KEY + " and more"))
    assert KEY[:4] not in line
    assert line.endswith("word ... (33 characters more)")

    def deep(depth):
        return deep(depth - 1) if depth else 1 / 0

    try:
        deep(500)
    except ZeroDivisionError as error:
        line = TextLines().format(record("failed", error=error))
    assert "Previous line repeated 17 more times" in line


def test_a_line_whose_values_do_not_fit_is_written_without_them():
    line = TextLines().format(record("%d rows", PROMPT))
    assert "%d rows (with values that do not fit)" in line
    assert PROMPT not in line


def test_an_exception_that_led_to_itself_ends():
    one, two = ValueError("a"), TypeError("b")
    one.__cause__, two.__cause__ = two, one
    assert JsonLines().format(record("x", error=one)).count("which led to") == 1


def test_secrets_are_those_that_the_settings_name():
    model = OpenAICompatibleModel(name="m", api_key_env="A", headers={"x-team": "$B", "x-title": "Armwise"})
    environ = {
        "A": "value-of-a", "B": "value-of-b", "C": "value-of-c", "DB": "postgresql://me:pass-word@host/x",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector=value-of-d",
    }  # fmt: skip
    database = settings_from_toml('database.url_env = "DB"', environ).database
    found = logs.secrets_of(Settings(models=(model,), database=database), environ)
    assert {"value-of-a", "value-of-b", "value-of-d", "pass-word", environ["DB"]} <= found
    assert not {"value-of-c", "", "Armwise"} & found


# Levels


@pytest.mark.parametrize(
    ("logger", "path", "level"),
    [
        ("armwise", "storage/writer.py", logging.DEBUG),
        ("armwise", "app.py", logging.INFO),
        ("armwise", "experiments/looks.py", logging.ERROR),
        ("armwise", "experiments/verdicts.py", logging.DEBUG),
        ("armwise.access", "logs.py", logging.INFO),
        ("uvicorn.error", "elsewhere.py", logging.INFO),
        ("aiohttp.client", "elsewhere.py", logging.WARNING),
        ("opentelemetry.sdk", "elsewhere.py", logging.ERROR),
    ],
)
def test_a_module_has_the_level_of_the_nearest_name_above_it(logger, path, level):
    chosen = ByModule(
        "info",
        {
            "armwise.storage.writer": "debug", "armwise.experiments": "error", "armwise.experiments.verdicts": "debug",
            "uvicorn": "info",
        },
    )  # fmt: skip
    for other in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        written = chosen.filter(record("x", logger=logger, path=SERVICE / path, level=other))
        assert written == (other >= level)
    assert chosen.lowest("armwise") == logging.DEBUG


def test_names_and_levels_that_do_not_exist_are_refused_with_those_that_do():
    def mistakes(text):
        with pytest.raises(ConfigurationError) as refused:
            settings_from_toml(text, {})
        return refused.value.mistakes

    (found,) = mistakes('[logging.levels]\n"armwise.storage.writre" = "debug"')
    assert found.startswith('`logging.levels."armwise.storage.writre"` is no module that writes lines')
    assert "(did you mean `armwise.storage.writer`?)" in found
    (found,) = mistakes('[logging.levels]\nsqlalchemy = "debug"')
    assert "`armwise.access`" in found
    assert "`armwise.experiments.verdicts`" in found
    assert "`uvicorn`" in found
    (found,) = mistakes('[logging.levels]\n"armwise.storage.writer" = "loud"')
    assert "must be one of `debug`, `info`, `warning`, `error`" in found
    quiet = settings_from_toml('[logging.levels]\n"armwise.relay" = "debug"\n"armwise.api" = "error"', {})
    assert quiet.logging == Logging(levels={"armwise.relay": "debug", "armwise.api": "error"})


# A running service


TOML = """
[logging]
level = "warning"
format = "{form}"
levels = {{ "armwise.access" = "debug", "uvicorn" = "info" }}
"""


@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_running_service_writes_uvicorns_lines_and_its_own_in_one_form(tmp_path, form):
    async with served(tmp_path, TOML.format(form=form)) as running, aiohttp.ClientSession() as http:
        body = {"messages": [{"role": "user", "content": PROMPT}], "model": "small"}
        url, headers = f"{running.url}/v1/chat/completions?key={KEY}", {"x-request-id": "mine"}
        async with http.post(url, json=body, headers=headers) as reply:
            decision_id = reply.headers["x-armwise-decision-id"]
            assert reply.headers["x-request-id"] == "mine"
        await running.stop()
    lines = [line for line in running.written.splitlines() if not line.startswith("Armwise serves")]
    assert PROMPT not in running.written
    assert KEY not in running.written
    if form == "json":
        told = [json.loads(line) for line in lines]
        assert any(line["logger"] == "uvicorn.error" and "Started server" in line["message"] for line in told)
        (access,) = [line for line in told if line.get("request_id") == "mine"]
        assert access["logger"] == "armwise.access"
        assert (access["method"], access["path"], access["status"]) == ("POST", "/v1/chat/completions", 200)
        assert (access["decision_id"], access["model"]) == (decision_id, "small")
        assert access["ms"] > 0
    else:
        assert any(" INFO    uvicorn.error: Started server" in line for line in lines)
        (access,) = [line for line in lines if "[mine]" in line]
        assert "DEBUG   armwise.access [mine]: POST /v1/chat/completions 200 " in access
        assert access.endswith(f"decision_id={decision_id} model=small")


def test_a_thread_that_ends_by_a_fault_is_told_without_its_words(monkeypatch):
    written = io.StringIO()
    root = logging.getLogger()
    for name in ("handlers", "level"):
        monkeypatch.setattr(root, name, getattr(root, name))
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "stderr", written)
    before = {name: logging.getLogger(name).level for name in (*logs._OTHERS, "uvicorn.error")}
    logs.configure_logging(Settings(), {})
    try:
        failing = threading.Thread(target=lambda: {}[PROMPT], name="failing")
        failing.start()
        failing.join()
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
    assert "the thread failing ended by a fault" in written.getvalue()
    assert "KeyError" in written.getvalue()
    assert PROMPT not in written.getvalue()
