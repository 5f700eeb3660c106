"""The `featx` command: its verbs, and the line in which an error ends."""

import codecs
import contextlib
import gc
import io
import itertools
import logging
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer
from typer.exceptions import Exit, TyperException

from featx.cli import (
    audit,
    backbones,
    bundle,
    cache,
    compare,
    demo,
    doctor,
    embed,
    errors,
    evaluate,
    export,
    finetune,
    fit,
    import_features,
    info,
    layers,
    merge,
    pack,
    predict,
    publish,
    repair,
    report,
    scout,
    serve,
    similar,
    split,
    verify,
)
from featx.cli import map as map_verb
from featx.cli.ctrl_c import EXIT_CODE, describe_stop, was_interrupted
from featx.cli.output import print_message
from featx.cli.panels import PanelCommand
from featx.errors import FeatxError, UsageError
from featx.registry import find_versions, suggest
from featx.reporting import SAID, show_line
from featx.urls import hide_secrets

#: Thresholds of Python's garbage collector. With its defaults, it scans the objects of TensorFlow's import and of
#: a list of 100,000 items over and over, for 2 of 9 seconds.
_GARBAGE_THRESHOLDS = (100_000, 50, 100)

#: The message about a value that is not among the choices of an option.
_CHOICE = re.compile(r"'([^']*)' is not one of (.*)")

app = typer.Typer(
    name="featx",
    help="Embed images once with a frozen backbone; then fit, compare and ship classifiers in seconds.",
    epilog="Run `featx demo` for an example, and `featx COMMAND --help` for the options of a command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _add_verb(command: Callable[..., None], example: str, name: str | None = None) -> None:
    # `\b` keeps the line of the example as it is.
    app.command(name, cls=PanelCommand, epilog=f"\b\nExample:\n  {example}")(command)


_add_verb(demo.demo, demo.EXAMPLE)
_add_verb(split.split, split.EXAMPLE)
_add_verb(scout.scout, scout.EXAMPLE)
_add_verb(embed.embed, embed.EXAMPLE)
_add_verb(fit.fit, fit.EXAMPLE)
_add_verb(compare.compare, compare.EXAMPLE)
_add_verb(finetune.finetune, finetune.EXAMPLE)
_add_verb(evaluate.evaluate, evaluate.EXAMPLE)
_add_verb(predict.predict, predict.EXAMPLE)
_add_verb(audit.audit, audit.EXAMPLE)
_add_verb(errors.errors, errors.EXAMPLE)
_add_verb(report.report, report.EXAMPLE)
_add_verb(similar.similar, similar.EXAMPLE)
_add_verb(map_verb.map, map_verb.EXAMPLE)
_add_verb(info.info, info.EXAMPLE)
_add_verb(verify.verify, verify.EXAMPLE)
_add_verb(repair.repair, repair.EXAMPLE)
_add_verb(merge.merge, merge.EXAMPLE)
_add_verb(pack.pack, pack.EXAMPLE)
_add_verb(import_features.import_features, import_features.EXAMPLE, "import")  # a keyword of Python
_add_verb(publish.publish, publish.EXAMPLE)
_add_verb(export.export, export.EXAMPLE)
_add_verb(serve.serve, serve.EXAMPLE)
_add_verb(backbones.backbones, backbones.EXAMPLE)
_add_verb(layers.layers, layers.EXAMPLE)
_add_verb(bundle.bundle, bundle.EXAMPLE)
_add_verb(cache.cache, cache.EXAMPLE)
_add_verb(doctor.doctor, doctor.EXAMPLE)


class _MessageHandler(logging.Handler):
    """Print notes to whatever stderr is at the moment: above a progress bar, and not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != SAID:  # it was printed before it was logged
            show_line(self.format(record), sys.stderr)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"featx {version('featx')}")
        raise typer.Exit


#: Flags that every verb takes, also behind its name.
_SHARED_FLAGS, _SHARED_OPTIONS = ("--debug", "--verbose"), ("--log",)


@app.callback()
def start(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also print the steps of a run, with the time.")] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="FILE", help="Append the steps, notes and errors, with time and traceback, to a file."
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback prints and exits
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up what every verb needs: notes on stderr."""
    handler = _MessageHandler(logging.DEBUG if debug or verbose else logging.WARNING)
    timed = "%(asctime)s %(levelname)s: %(message)s"
    handler.setFormatter(logging.Formatter(timed if verbose else "%(levelname)s: %(message)s"))
    logging.addLevelName(logging.WARNING, "note")
    # Pillow's two lines on broken EXIF data, in the middle of a run: the image is embedded anyway.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # `compare` says itself that processes cannot be started, and nothing else needs them.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"joblib\._multiprocessing_helpers")
    logger = logging.getLogger("featx")
    for old in logger.handlers:
        old.close()
    logger.handlers[:] = [handler, *([_open_log(log)] if log else [])]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug or verbose or log else logging.NOTSET)
    if verbose or log:
        versions = f"featx {find_versions(['featx'])['featx']}, Python {platform.python_version()}"
        logger.debug("%s; %s", hide_secrets(shlex.join(sys.argv)), versions)


def _open_log(path: Path) -> logging.Handler:
    """Open a log, to which each command appends."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        msg = f"--log {path} cannot be written: {error.strerror or error}"
        raise UsageError(msg) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    return handler


def _move_shared(arguments: Sequence[str]) -> list[str]:
    """Move the flags that every verb takes before the verb, where they are parsed."""
    shared, rest = list[str](), list[str]()
    left = iter(arguments)
    for word in left:
        if word == "--":
            return [*shared, *rest, word, *left]
        if word in _SHARED_FLAGS or word.startswith(tuple(f"{name}=" for name in _SHARED_OPTIONS)):
            shared.append(word)
        elif word in _SHARED_OPTIONS:
            shared += [word, *itertools.islice(left, 1)]
        else:
            rest.append(word)
    return [*shared, *rest]


def main() -> None:
    """Run the command line; every error that a user can cause ends in one line."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    arguments = _move_shared(sys.argv[1:])
    debug = "--debug" in arguments
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a class name that the terminal cannot show must not end the run
            # In a C locale, names would be written as escapes, into files too.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if is_ascii else None, errors="backslashreplace")
    try:
        code = app(arguments or ["--help"], standalone_mode=False) or 0
        if code == EXIT_CODE:  # typer has turned Ctrl-C into this code
            _fail(KeyboardInterrupt(), describe_stop(), code, debug=debug)
        sys.stdout.flush()  # here, since at the end of the process nothing could handle an error
        sys.exit(code)
    except FeatxError as error:
        _fail(error, str(error), error.exit_code, debug=debug)
    except Exit as error:
        sys.exit(error.exit_code)
    except TyperException as error:
        _fail(error, _describe_usage(error), error.exit_code, debug=debug)
    except KeyboardInterrupt as error:
        _fail(error, describe_stop(), EXIT_CODE, debug=debug)
    except BrokenPipeError:
        _drop_output(sys.stdout, sys.stderr)
        sys.exit(1)
    except (MemoryError, OSError) as error:
        _drop_output(sys.stdout)
        _fail(error, _describe_failure(error), 1, debug=debug)


def _describe_failure(error: MemoryError | OSError) -> str:
    if isinstance(error, MemoryError):
        reason = " ".join(str(error).split()) or "an allocation failed"
        hint = "end other programs, or use a machine with more; `fit --memory` and a smaller --batch-size need less"
        return f"there is not enough memory ({reason}); {hint}"
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that the caller closed.

    Otherwise the next file gets the number of that stream, and what libraries print goes into it.
    """
    for name, mode in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, mode)  # the lowest free number: that of the stream
            setattr(sys, name, os.fdopen(descriptor, "w" if mode == os.O_WRONLY else "r", encoding="utf-8"))


def _drop_output(*streams: TextIO) -> None:
    """Write what is still buffered, or drop it where that fails: Python would fail at the end of the process."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            continue
        with contextlib.suppress(OSError, ValueError):  # a stream that is not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _describe_usage(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "featx"
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    if choice := _CHOICE.search(message):
        hint = suggest(choice[1], re.findall(r"'([^']*)'", choice[2]))
        message += f"; {hint}" if hint else ""
    return f"{message}; see `{command} --help`"


def _fail(error: BaseException, message: str, code: int, *, debug: bool) -> None:
    logging.getLogger(SAID).debug("ended with exit code %d", code, exc_info=error)
    if debug:
        raise error
    if was_interrupted():  # a library may have turned the interrupt into another error
        message, code = describe_stop(), EXIT_CODE
    try:
        print_message(f"error: {message}")
    except OSError:  # nobody reads stderr
        _drop_output(sys.stdout, sys.stderr)
    sys.exit(code)
