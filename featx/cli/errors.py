"""`featx errors`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_notes, print_text
from featx.wording import format_plural

if TYPE_CHECKING:
    from featx.items.manifest import Reader

EXAMPLE = "featx errors runs/2026-01-31-logreg-mobilenetv2"

_SHOWN = 20


def errors(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE",
            help="Folder of the bundle or of an evaluation, or the name of a run; latest if not given.",
        ),
    ] = Path("latest"),
    source: flags.MovedPictures = "",
    top: Annotated[int, typer.Option("--top", min=1, help="Pictures on the contact sheet.")] = 40,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder for errors.csv and errors.png; BUNDLE if not given."),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Show the pictures that a classifier got wrong, the most confident mistakes first.

    These are the tested images of the bundle, or those of an evaluation that `featx evaluate` wrote. The table is
    written as errors.csv, and the pictures as errors.png.
    """
    from featx.errors import FeatxError
    from featx.references import find_bundle
    from featx.report.evaluations import find_tested, is_evaluation
    from featx.report.mistakes import find_mistakes, find_pictures, write_mistakes

    evaluated = is_evaluation(bundle)
    found = bundle if evaluated else find_bundle(bundle)
    mistakes = find_mistakes(found)
    manifest = None
    if len(mistakes):
        try:
            manifest = find_tested(found) if evaluated and not source else find_pictures(found, source)
        except FeatxError as error:
            if source:
                raise
            print_notes([f"no pictures are shown: {error}; name where they are now: featx errors {bundle} SOURCE"])
    if manifest is not None:
        _check_pictures(manifest.reader, mistakes.ids[:top], source, bundle)
    written = write_mistakes(mistakes, manifest, output or found, top)
    rows = list(zip(*mistakes.tabulate().values(), strict=True))
    if as_json:
        names = list(mistakes.tabulate())
        listed = [dict(zip(names, row, strict=True)) for row in rows]
        files = [str(path) for path in written]
        print_json({"bundle": str(found), "tested": mistakes.n_tested, "errors": listed, "files": files})
        return
    if rows:
        cells = [(*row[:3], f"{row[3]:.3f}", f"{row[4]:.3f}") for row in rows[:_SHOWN]]
        head = ("image", "label", "predicted", "probability", "of the label")
        print_text(format_table(head, cells, left=(0, 1, 2), drop=("of the label",)) + "\n")
    more = f"; the first {_SHOWN} are shown" if len(rows) > _SHOWN else ""
    print_text(f"{mistakes}{more} -> {', '.join(map(str, written))}")


def _check_pictures(reader: "Reader", ids: Sequence[str], source: str, bundle: Path) -> None:
    """Say which pictures are not there; a named source that has none of them is an error."""
    from featx.report.contact_sheets import refuse_source

    gone = [name for name in ids if not _is_there(reader, name)]
    if source and len(gone) == len(ids):
        refuse_source(source, len(ids), gone[0])
    if gone:
        missing = f"{len(gone):,} of {format_plural(len(ids), 'picture')}, such as {gone[0]!r}"
        print_notes([f"the contact sheet lacks {missing}; name where they are now: featx errors {bundle} SOURCE"])


def _is_there(reader: "Reader", name: str) -> bool:
    try:
        reader.stat(name)
    except OSError:
        return False
    return True
