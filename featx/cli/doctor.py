"""`featx doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.output import print_json, print_text, read_width
from featx.wording import agree, wrap_words

EXAMPLE = "featx doctor latest"

#: Columns of the states.
_STATE_CELLS = 9


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE",
            help="Also load this bundle, or the run of this name, and predict its golden pictures.",
            show_default=False,
        ),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Check the installation and the machine, and say what to do about what is wrong.

    Versions, processor, runtimes, caches, weights, a two-second speed test, write access, and a bundle if one is
    named. Exits with 1 if there is a problem. The JSON belongs into a bug report.
    """
    from featx.diagnosis import NOTE, PROBLEM, examine_installation

    found = flags.find_bundle(bundle, []) if bundle is not None else None
    checks = []
    for check in examine_installation(found):
        checks.append(check)
        if not as_json:
            _print(f"{check.topic}: {check.found}", check.state)
            if check.advice:
                _print(f"-> {check.advice}")
    counts = {state: sum(check.state == state for check in checks) for state in (PROBLEM, NOTE)}
    if as_json:
        print_json({"problems": counts[PROBLEM], "checks": [check.to_dict() for check in checks]})
    else:
        problems = f"{counts[PROBLEM]} {agree(counts[PROBLEM], 'problem', 'problems')}"
        print_text(f"\n{problems}, {counts[NOTE]} {agree(counts[NOTE], 'note', 'notes')}")
    if counts[PROBLEM]:
        raise typer.Exit(1)


def _print(line: str, state: str = "") -> None:
    """Print a line behind its state; a terminal gets it broken between words."""
    width = read_width()
    lines = [line] if width is None else wrap_words(line, width - _STATE_CELLS).split("\n")
    print_text("\n".join(f"{state if not at else '':{_STATE_CELLS}}{part}" for at, part in enumerate(lines)))
