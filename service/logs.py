"""Log lines: text for people, or one JSON object a line. Never a prompt, a reply or a secret."""

import logging
import sys

import msgspec

from service.settings import Logging


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, logger, message and, of a failure, the traceback."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logging(settings: Logging) -> None:
    """Send everything to standard error in the configured format, from the configured level on."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of other libraries we want to hear faults only
    logging.getLogger("armwise").setLevel(settings.level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
