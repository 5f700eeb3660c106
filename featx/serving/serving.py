"""Serving bundles from Python."""

import logging
import os
import threading
from collections.abc import Callable, Sequence

from featx.errors import MissingExtraError, UsageError
from featx.serving.options import SERVE_DEFAULTS, ServeOptions

logger = logging.getLogger(__name__)


def serve(
    bundles: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    options: ServeOptions = SERVE_DEFAULTS,
    *,
    on_ready: Callable[[str], None] = logger.info,
) -> None:
    """Serve bundles over HTTP until a signal stops the process, as `featx serve` does.

    SIGTERM and Ctrl-C answer what was sent before, and return; SIGHUP loads the bundles again. While it runs, featx
    logs to stderr as JSON lines. It must be called in the main thread, which is the one that gets signals.

    Args:
        bundles: One or more bundles, each as `Bundle.open` takes it, or as text `NAME=BUNDLE`, which names the model.
        options: Where to listen, whom to answer, and the limits.
        on_ready: Called once with the URL, when the server listens.

    Raises:
        MissingExtraError: If FastAPI or another package of the extra `serve` is not installed.
        FeatxError: If a bundle cannot be loaded, or the address cannot be used.
        UsageError: If two models have one name, or this is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        msg = "serve must be called in the main thread, which gets the signals that stop it; start a process for it"
        raise UsageError(msg)
    try:
        from featx.serving.server import run_server
    except ModuleNotFoundError as error:
        msg = f"serving needs {error.name}, which is not installed; run pip install 'featx[serve]'"
        raise MissingExtraError(msg) from error
    named = [bundles] if isinstance(bundles, str | os.PathLike) else bundles
    run_server([os.fspath(bundle) for bundle in named], options, on_ready)
