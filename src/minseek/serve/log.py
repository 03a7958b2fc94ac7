"""Lines of the server's log: as text, or as JSON for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time (UTC), level, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        return json.dumps(line | getattr(record, "fields", {}), ensure_ascii=False)


def log_to(stream: TextIO | None, form: LogFormat, level: str) -> None:
    """Write the server's log to a stream.

    Parameters
    ----------
    stream : file or None
        None is standard error.
    form : {"text", "json"}
        *text*: date, time, level and message.
    level : str
        Least level that is written: ``info`` (every request), ``warning`` (refused ones) or ``error`` (failed ones).
    """
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    log = logging.getLogger("minseek.serve")
    log.handlers = [handler]
    log.setLevel(level.upper())
