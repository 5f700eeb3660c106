"""`featx verify` and `featx repair`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from featx.cli.embedding import BatchSize, Json, Runtime, Workers, show_quarantine
from featx.cli.interruption import end_at_second_interrupt
from featx.cli.output import format_table, print_json
from featx.errors import StoreFormatError
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter
from featx.wording import format_bytes

#: Names of items that a row of the table shows.
_SHOWN_ITEMS = 3


def verify(
    store: Annotated[
        Path | None, typer.Argument(help="A feature store; the newest in ./features if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every byte of a store and compare it with its checksums; name the damaged rows and their items."""
    import featx

    path = store or featx.FeatureStore.find_newest(allow_damage=True).path
    with ProgressReporter("checking") as reporter:
        found = featx.verify_store(path, reporter.advance)
    if as_json:
        print_json(found.to_dict())
    elif not found.damage:
        size = format_bytes(path.stat().st_size)
        typer.echo(f"{path}: sound; {len(found.store):,} items, {size}, every byte agrees with its checksum")
    else:
        _show_damage(found)
    if found.damage:
        msg = f"{path} is damaged; `featx repair {path}` embeds what is lost again (--drop only takes it out)"
        raise StoreFormatError(msg)


def repair(
    store: Annotated[Path, typer.Argument(help="A damaged feature store.")],
    drop: Annotated[
        bool, typer.Option("--drop", help="Only take the damaged rows out; needs neither images nor backbone.")
    ] = False,
    batch_size: BatchSize = EMBED_DEFAULTS.batch_size,
    workers: Workers = EMBED_DEFAULTS.workers,
    runtime: Runtime = EMBED_DEFAULTS.runtime,
    as_json: Json = False,
) -> None:
    """Take damaged rows out of a store and embed their items again."""
    import featx

    with end_at_second_interrupt(), ProgressReporter("checking") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        done = featx.repair_store(store, drop=drop, options=options)
    if as_json:
        print_json(done.to_dict())
    elif not done.verification.damage:
        typer.echo(f"{store}: sound; nothing to repair")
    else:
        lost = int(done.verification.lost.sum())
        restored = f", {done.result.new:,} embedded again" if done.result else ""
        typer.echo(f"{lost:,} of {len(done.verification.store):,} rows were damaged and taken out{restored} -> {store}")
    if done.result:
        show_quarantine([done.result])
        done.result.check()


def _show_damage(found: Any) -> None:  # noqa: ANN401 - a Verification, whose module loads numpy
    rows = []
    for damage in found.damage:
        names = found.list_items(damage)
        more = f" and {len(names) - _SHOWN_ITEMS:,} more" if len(names) > _SHOWN_ITEMS else ""
        rows.append(
            (f"/{damage.part}", f"{damage.first:,}", f"{damage.past - 1:,}", ", ".join(names[:_SHOWN_ITEMS]) + more)
        )
    typer.echo(format_table(("damaged", "first row", "last row", "items"), rows, left=(0, 3)))
