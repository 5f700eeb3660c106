"""`featx serve`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_notes, print_text
from featx.errors import UsageError
from featx.serving.options import SERVE_DEFAULTS, ServeOptions

EXAMPLE = "featx serve runs/latest --port 8000"

#: The environment variable with the token.
_TOKEN = "FEATX_TOKEN"  # noqa: S105 - its name


def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE",
            help="Bundles, as `featx predict` takes them; NAME=BUNDLE names the model. runs/latest is loaded again "
            "whenever it changes.",
        ),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = SERVE_DEFAULTS.host,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = SERVE_DEFAULTS.port,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the tokens that requests need, one in each line. By default, the environment variable "
            f"{_TOKEN}; without either, everybody is answered.",
        ),
    ] = None,
    tls_cert: Annotated[str, typer.Option(metavar="FILE", help="Certificate (PEM), for https.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="Key of the certificate (PEM).")] = "",
    max_batch: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most images that one pass of the network takes.")
    ] = SERVE_DEFAULTS.max_batch,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, metavar="MS", help="How long an image waits for others to join it.")
    ] = SERVE_DEFAULTS.max_wait_ms,
    queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most images that wait; requests beyond that get status 503.")
    ] = SERVE_DEFAULTS.queue,
    max_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most bytes of a request.")
    ] = SERVE_DEFAULTS.max_bytes,
    max_pixels: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most pixels of an image.")
    ] = SERVE_DEFAULTS.max_pixels,
    max_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most images of a request.")
    ] = SERVE_DEFAULTS.max_images,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Time after which a request is given up.")
    ] = SERVE_DEFAULTS.timeout,
    training_pictures: Annotated[
        bool,
        typer.Option(
            "--training-pictures",
            help="Show small pictures of similar training images, where they still are on this machine.",
        ),
    ] = SERVE_DEFAULTS.training_pictures,
    runtime: flags.Runtime = SERVE_DEFAULTS.runtime,
) -> None:
    """Serve bundles over HTTP, with a page for people at /.

    POST /predict takes pictures; /v2 is the Open Inference Protocol, for KServe and Triton clients; /metrics is for
    Prometheus. SIGTERM answers what has arrived and stops; SIGHUP loads the bundles again.
    """
    import featx

    options = ServeOptions(
        host=host,
        port=port,
        tokens=_read_tokens(token_file),
        tls_cert=tls_cert,
        tls_key=tls_key,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        queue=queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        timeout=timeout,
        training_pictures=training_pictures,
        runtime=runtime,
    )
    if not options.is_local and not options.tokens:
        print_notes([f"everybody who reaches {host} is answered; ask for a token with --token-file or {_TOKEN}"])
    if options.most_images < max_images:
        print_notes([f"a request may have {options.most_images:,} images, as many as may wait; --queue allows more"])
    featx.serve(bundles, options, on_ready=lambda url: print_text(f"{', '.join(bundles)} at {url} (Ctrl-C stops)"))


def _read_tokens(file: Path | None) -> tuple[str, ...]:
    """Read the tokens.

    Raises:
        UsageError: If a file is named and has none.
    """
    if file is None:
        token = os.environ.get(_TOKEN, "")
        return (token,) if token else ()
    try:
        tokens = tuple(filter(None, map(str.strip, file.read_text("utf-8").splitlines())))
    except (OSError, ValueError) as error:
        msg = f"the tokens in {file} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise UsageError(msg) from error
    if not tokens:
        msg = f"{file} has no token; write one in each line"
        raise UsageError(msg)
    return tokens
