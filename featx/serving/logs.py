"""Logs as JSON lines, without anything of the pictures."""

import datetime as dt
import json
import logging
import traceback


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; `about` in its extras becomes keys of their own."""
        values = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower().replace("note", "warning"),
            "event": record.getMessage(),
            **getattr(record, "about", {}),
        }
        if record.exc_info:
            values["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(values)


def log_as_json() -> None:
    """Write all records of featx and of the web server to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name, level in (("featx", logging.INFO), ("uvicorn.error", logging.ERROR), ("asyncio", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level)
