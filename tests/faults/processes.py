"""Embedding in processes that are forked from a warm one, so that hundreds of them can be killed in a minute."""

import io
import json
import multiprocessing
import os
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from operations import Fault, Operation, Shim

#: Modules that every child needs are imported once, in the process that all are forked from.
_PRELOADED = [
    "featx.embedding",
    "featx.backbones.colour",
    "featx.store.packing",
    "featx.store.verification",
    "PIL.PngImagePlugin",
    "featx.options",
]

#: A run of these tests takes a tenth of a second; one that takes this long hangs.
_PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Command:
    """One run of `embed` with the colour backbone, or of `pack`.

    Attributes:
        source: The folder of pictures.
        root: The watched folder; the store is `features/s.h5` in it.
        fault: The fault, if any.
        verb: `embed`; `index`, which is `embed` into an index; or `pack`.
        batch_size: Images of one batch, and rows of one shard.
    """

    source: Path
    root: Path
    fault: Fault | None = None
    verb: str = "embed"
    batch_size: int = 2


@dataclass(frozen=True)
class Report:
    """The record that a run wrote before it ended, however it ended.

    Attributes:
        events: Operations, and between them the sha256 of the rows committed so far.
        result: `new`, `cached` and `quarantined`, and whether TensorFlow was imported; None if it did not get there.
        error: `kinds`, the class and base classes of its exception, and its `text`; None if it raised none.
        exit_code: 0, or minus the signal that ended it.
    """

    events: tuple[Operation | frozenset[str], ...]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    exit_code: int

    @property
    def committed(self):
        """The sha256 of every row whose commit had returned."""
        return frozenset().union(*(event for event in self.events if isinstance(event, frozenset)))

    @property
    def operations(self):
        """Every operation that changed the disk, in order."""
        return [event for event in self.events if isinstance(event, Operation)]


def start(target, *arguments):
    """Fork a process from the warm one, and let it call a function of a module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def run_embedding(command, notes, *, kill_after=None):
    """Run one command in a process of its own.

    Args:
        command: What to do.
        notes: File that it writes its report to; replaced.
        kill_after: Seconds after which it is killed from outside.
    """
    notes.unlink(missing_ok=True)
    notes.touch()
    process = start(embed, command, notes)
    process.join(_PATIENCE_SECONDS if kill_after is None else kill_after)
    hangs = process.exitcode is None
    process.kill()
    process.join()
    assert kill_after is not None or not hangs, f"{command} hangs"
    exit_code = process.exitcode
    process.close()
    return _read_report(notes, exit_code)


def embed(command, notes):
    """Run the command, and record every event at once, so that the record survives a kill."""
    from featx.embedding import embed
    from featx.options import EmbedOptions
    from featx.store import journal, sharding
    from featx.store.packing import pack_store

    warnings.simplefilter("error")
    write, descriptor = os.write, os.open(notes, os.O_WRONLY | os.O_APPEND)

    def note(kind, content):
        write(descriptor, json.dumps({kind: content}).encode() + b"\n")

    _note_commits(journal.Journal, lambda rows: note("committed", rows))
    journal.SHARD_BYTES = command.batch_size * 4 * 240
    sharding.LEAST_RUN = command.batch_size
    shim = Shim(str(command.root), command.fault, lambda operation: note("operation", asdict(operation)))
    shim.install(*_list_files())
    options = EmbedOptions(
        batch_size=command.batch_size, workers=1, index_above=0 if command.verb == "index" else 10**9
    )
    folder = command.root / "features"
    try:
        if command.verb == "pack":
            counts = {"new": 0, "items": len(pack_store(folder / "s.h5"))}
        else:
            result = embed(command.source, "colour", name="s", folder=folder, options=options)
            counts = {name: getattr(result, name) for name in ("new", "cached", "quarantined")}
    except Exception as error:  # noqa: BLE001 - the test checks it, whatever it is
        kinds = [kind.__name__ for kind in type(error).__mro__]
        note("error", {"kinds": kinds, "text": str(error)})
    else:
        note("result", {**counts, "tensorflow": "tensorflow" in sys.modules})


def _list_files():
    """List the classes through which featx writes files."""
    return [kind for kind in io.FileIO.__subclasses__() if kind.__module__.startswith("featx.")]


def _note_commits(journal, note):
    """Record the rows of a journal as soon as it reports them as committed."""
    append, commit = journal.append, journal.commit
    rows: list[str] = []

    def append_and_note(self, sha256, *args):
        rows.append(sha256)
        append(self, sha256, *args)

    def commit_and_note(self):
        finished = rows.copy()
        rows.clear()
        commit(self)
        if finished:
            note(finished)

    journal.append, journal.commit = append_and_note, commit_and_note


def _read_report(notes, exit_code):
    events: list[Operation | frozenset[str]] = []
    ends: dict[str, Any] = {}
    for line in notes.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            break  # killed while it wrote this
        ((kind, content),) = json.loads(line).items()
        if kind == "operation":
            events.append(Operation(**content))
        elif kind == "committed":
            events.append(frozenset(content))
        else:
            ends[kind] = content
    return Report(tuple(events), ends.get("result"), ends.get("error"), exit_code)
