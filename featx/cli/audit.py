"""`featx audit`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_notes, print_text
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx audit features/mobilenetv2.h5"

#: Findings, or groups, of each kind that are printed.
_SHOWN = 5


def audit(
    store: Annotated[
        Path | None,
        typer.Argument(metavar="STORE", help="Feature store; the newest one if not given.", show_default=False),
    ] = None,
    source: flags.MovedPictures = "",
    near: Annotated[
        float, typer.Option("--near", min=0.5, max=1.0, help="Least similarity of near-copies, 0.5 to 1.")
    ] = 0.95,
    top: Annotated[int, typer.Option("--top", min=1, help="Pictures on each contact sheet.")] = 40,
    output: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder for audit.csv and the sheets; audit/STORE if not given."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an audit.csv that was edited.")] = False,
    seed: flags.Seed = 0,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    as_json: flags.Json = False,
) -> None:
    """Find copies, wrong labels, outliers and shortcuts in the data.

    Looks for files and pictures that occur more than once, labels that the features contradict, items unlike all
    others, blank, blurred, wrongly exposed and tiny pictures, and properties of files that predict the label. Writes
    audit.csv and a contact sheet of each kind.
    """
    from featx.audit.auditing import audit_store, check_edited, write_audit

    opened = flags.open_store(store)
    folder = output or Path("audit") / opened.path.stem
    if not overwrite:
        check_edited(folder)
    with ProgressReporter("auditing") as reporter:
        options = EmbedOptions(workers=workers, reporter=reporter)
        found = audit_store(opened, source=source or None, threshold=near, seed=seed, options=options)
    written = write_audit(found, folder, top, overwrite=overwrite)
    print_notes(found.notes)
    if as_json:
        print_json({**found.to_dict(), "files": [str(path) for path in written]})
    else:
        print_text(_describe(found, folder))


def _describe(found: Any, folder: Path) -> str:  # noqa: ANN401 - an Audit, whose module loads numpy
    parts = [f"{found.store}: {found.n_items:,} items"]
    for kind in found.count():
        table = format_table(("image", "suggestion", "why"), found.list_lines(kind)[:_SHOWN], left=(0, 1, 2))
        parts.append(f"{found.describe_kind(kind, _SHOWN)}\n{table}")
    if not found.findings:
        parts.append("no copies, suspicious labels, outliers or odd pictures")
    if found.shortcuts:
        predicted = [
            (one.what, f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}", "yes" if one.is_strong else "")
            for one in found.shortcuts
        ]
        head = ("label predicted from", "accuracy", "95 % interval", "shortcut")
        baseline = f"(always the largest class: {found.shortcuts[0].baseline:.3f})"
        parts.append(f"{format_table(head, predicted, left=(0, 3))}\n{baseline}")
    sheets = " and contact sheets beside it" if found.reader else ""
    return "\n\n".join([*parts, f"-> {folder / 'audit.csv'}{sheets}"])
