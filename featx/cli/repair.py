"""`featx repair`."""

from typing import Annotated

import typer

from featx.cli import flags
from featx.cli.ctrl_c import end_at_second_interrupt
from featx.cli.output import print_json, print_quarantine, print_text
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.reporting import ProgressReporter

EXAMPLE = "featx repair features/mobilenetv2.h5"


def repair(
    store: flags.Store,
    drop: Annotated[
        bool,
        typer.Option("--drop", help="Only remove the damaged rows, which needs neither the images nor the backbone."),
    ] = False,
    batch_size: flags.BatchSize = EMBED_DEFAULTS.batch_size,
    workers: flags.Workers = EMBED_DEFAULTS.workers,
    runtime: flags.Runtime = EMBED_DEFAULTS.runtime,
    as_json: flags.Json = False,
) -> None:
    """Repair a damaged feature store.

    The damaged rows are removed and their images are embedded again. After Ctrl-C, the same command continues where
    it stopped.
    """
    import featx

    with end_at_second_interrupt(), ProgressReporter("checking") as reporter:
        options = EmbedOptions(batch_size=batch_size, workers=workers, runtime=runtime, reporter=reporter)
        done = featx.repair_store(store, drop=drop, options=options)
    if as_json:
        print_json(done.to_dict())
    elif not done.verification.damage:
        print_text(f"{store}: sound; nothing to repair")
    else:
        lost = int(done.verification.lost.sum())
        restored = f", {done.result.new:,} embedded again" if done.result else ""
        print_text(f"{lost:,} of {len(done.verification.store):,} rows were damaged and removed{restored} -> {store}")
    if done.result:
        print_quarantine([done.result])
        done.result.check()
