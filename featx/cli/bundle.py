"""`featx bundle`."""

from enum import StrEnum
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_text

EXAMPLE = "featx bundle complete latest"


class Action(StrEnum):
    """What is done with a bundle."""

    COMPLETE = "complete"
    SLIM = "slim"


def bundle(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="complete adds the network, so that the bundle runs without Keras and the weights; slim removes it.",
        ),
    ],
    bundle: flags.Bundle,
) -> None:
    """Add the network to a bundle, or remove it.

    `featx fit` adds it by itself where it is in the cache. A bundle without it needs Keras and the weights where it
    runs, and is smaller.
    """
    from featx.completion import complete_bundle, slim_bundle

    path = flags.find_bundle(bundle, [])
    if action is Action.COMPLETE:
        done = "now holds its network" if complete_bundle(path) else "holds its network already"
    else:
        done = "does not hold its network any more" if slim_bundle(path) else "does not hold its network"
    print_text(f"{path} {done}")
