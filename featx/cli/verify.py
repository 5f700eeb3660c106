"""`featx verify`."""

from typing import Any

import typer

from featx.cli import flags
from featx.cli.output import format_table, print_json, print_text
from featx.errors import StoreFormatError
from featx.reporting import ProgressReporter
from featx.wording import format_bytes, join_first

EXAMPLE = "featx verify features/mobilenetv2.h5"

#: Names of items that a row of the table shows.
_SHOWN_ITEMS = 3


def verify(store: flags.NewestStore = None, as_json: flags.Json = False) -> None:
    """Verify the checksums of a feature store.

    Every byte is read. Damaged rows are listed with their items, and the exit status is then 1.
    """
    import featx

    path = store or featx.FeatureStore.find_newest(allow_damage=True).path
    with ProgressReporter("checking") as reporter:
        found = featx.verify_store(path, reporter.advance)
    if as_json:
        print_json(found.to_dict())
    elif not found.damage:
        size = format_bytes(found.store.count_bytes())
        print_text(f"{found.store.place}: sound; {len(found.store):,} items, {size}, all checksums match")
    else:
        _show_damage(found)
    if found.damage:
        msg = (
            f"{path} is damaged; run `featx repair {path}` to embed the lost items again, or with --drop to remove them"
        )
        raise StoreFormatError(msg)


def _show_damage(found: Any) -> None:  # noqa: ANN401 - a Verification, whose module loads numpy
    rows = []
    for damage in found.damage:
        names = found.list_items(damage)
        listed = join_first(names, _SHOWN_ITEMS)
        rows.append((f"/{damage.part}", f"{damage.first:,}", f"{damage.past - 1:,}", listed))
    typer.echo(format_table(("damaged", "first row", "last row", "items"), rows, left=(0, 3)))
