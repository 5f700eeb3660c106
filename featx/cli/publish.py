"""`featx publish`."""

from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.reporting import ProgressReporter
from featx.wording import format_bytes, format_plural

EXAMPLE = "featx publish features/mobilenetv2.h5 s3://bucket/features/"


def publish(
    what: Annotated[
        str,
        typer.Argument(
            metavar="STORE|BUNDLE",
            help="Feature store (.h5), or a bundle: its folder, its name in runs/, or latest.",
            show_default=False,
        ),
    ],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="Where to write it, such as s3://bucket/features/x.h5; if it ends in /, in there under its own name.",
            show_default=False,
        ),
    ],
    as_json: flags.Json = False,
) -> None:
    """Write a store or a bundle to a URL, from which other verbs read it.

    It is verified first and read back afterwards, and readers never see a part of it. A store replaces the one that
    is there; a bundle replaces no other.
    """
    from featx.publishing import publish as write

    with ProgressReporter("publishing") as reporter:
        done = write(what, url, reporter=reporter)
    if as_json:
        print_json(done.to_dict())
    elif done.files:
        print_text(f"{format_plural(len(done.files), 'file')}, {format_bytes(done.n_bytes)} -> {done.url}")
    else:
        print_text(f"the same bundle is there already -> {done.url}")
