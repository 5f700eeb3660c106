"""The `featx` command: its verbs, and how their errors end."""

import gc
import io
import logging
import os
import sys
import warnings
from typing import Annotated, TextIO

import typer
from typer.exceptions import Exit, TyperException

from featx.cli import (
    checking,
    comparing,
    demo,
    embedding,
    exchanging,
    fitting,
    inspecting,
    predicting,
    splitting,
    tuning,
)
from featx.cli.interruption import EXIT_CODE
from featx.errors import FeatxError

#: Python looks for cyclic garbage after so many new objects, and at old ones after so many looks. With its own numbers,
#: importing TensorFlow and listing 100,000 items are looked at over and over: 2 of 9 seconds.
_GARBAGE_THRESHOLDS = (100_000, 50, 100)

_STOPPED = "stopped; what was finished is kept, and the same command goes on from there"

#: Verbs of which that is true; the others begin anew.
_RESUMED = {"embed", "repair", "compare", "finetune"}

app = typer.Typer(
    name="featx",
    help="Embed images once with a frozen backbone; after that, a classifier takes seconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo.demo,
    splitting.split,
    embedding.embed,
    fitting.fit,
    comparing.compare,
    tuning.finetune,
    predicting.evaluate,
    predicting.predict,
    inspecting.info,
    checking.verify,
    checking.repair,
    exchanging.merge,
    exchanging.export,
    inspecting.backbones,
    inspecting.layers,
):
    app.command()(command)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Write to whatever stderr is at the moment, so that a note goes above a progress bar and not into it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Ignore what the base class sets once, at the start."""


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"featx {version('featx')}")
        raise typer.Exit


@app.callback()
def start(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback prints and exits
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up what every verb needs: notes on stderr."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.addLevelName(logging.WARNING, "note")
    # Pillow's two lines on broken EXIF data, in the middle of a run: the image is embedded all the same.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    logger = logging.getLogger("featx")
    logger.handlers[:] = [handler]
    logger.propagate = False
    if debug:
        logger.setLevel(logging.DEBUG)


def main() -> None:
    """Run the command line; every error that a user can cause ends in one line."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a class name that the terminal cannot spell ends nothing
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
        if code == EXIT_CODE:  # typer has turned Ctrl-C into this code
            _fail(KeyboardInterrupt(), _describe_stop(), code, debug=debug)
        sys.exit(code)
    except FeatxError as error:
        _fail(error, str(error), error.exit_code, debug=debug)
    except Exit as error:
        sys.exit(error.exit_code)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "featx"
        message = f"{error.format_message().rstrip('.')}; see `{command} --help`"
        _fail(error, message, error.exit_code, debug=debug)
    except KeyboardInterrupt as error:
        _fail(error, _describe_stop(), EXIT_CODE, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left; flushing would fail
        sys.exit(1)
    except OSError as error:
        name = f": {error.filename}" if error.filename else ""
        _fail(error, f"{error.strerror or error}{name}", 1, debug=debug)


def _describe_stop() -> str:
    return _STOPPED if _RESUMED & set(sys.argv[1:]) else "stopped"


def _fail(error: BaseException, message: str, code: int, *, debug: bool) -> None:
    if debug:
        raise error
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)
