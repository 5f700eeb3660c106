"""Runs of `embed` to be broken, and the content that must survive."""

import hashlib
import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace

import h5py
from operations import Fault
from pictures import write_digits
from processes import Command, run_embedding

from featx.errors import StoreError
from featx.store import FeatureStore
from featx.store.journal import Journal
from featx.store.layout import decode_text

#: Old enough for a picture's modification time to prove its content.
_AGE_SECONDS = 3600


@dataclass(frozen=True)
class Scenario:
    """One run: the files before it, and the expected content after it.

    Attributes:
        source: The folder of pictures.
        base: The files before the run; the store is `features/s.h5` in it.
        old: Content of the store before the run, None if there is none.
        final: Content of the store after the run.
        known: sha256 of the rows that are committed before the run.
        store: The store that an undisturbed run made.
        operations: The operations of an undisturbed run that change the disk, in order.
        verb: The verb of the run; see `Command`.
    """

    source: object
    base: object
    old: dict | None
    final: dict
    known: frozenset
    store: FeatureStore
    operations: list
    verb: str = "embed"

    def prepare(self, root):
        """Copy the files from before the run to a new folder."""
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.base, root)

    def run(self, root, fault=None, **options):
        """Run it, after or instead of another one, in a folder."""
        command = Command(self.source, root, fault, self.verb)
        return run_embedding(command, root.with_name(f"{root.name}.notes"), **options)


def make_fresh(folder):
    """No store yet: three shards, and one picture twice."""
    source = folder / "pictures"
    write_digits(source, per_class=2, classes=3)
    twice = min((source / "0").iterdir())
    shutil.copy(twice, twice.with_name("again.png"))
    return _finish(folder)


def make_adding(folder):
    """A store, and pictures for two more shards."""
    _begin_store(folder)
    write_digits(folder / "pictures", per_class=2, classes=2, skip=2)
    return _finish(folder)


def make_resealing(folder):
    """A store with all rows, one picture of which has moved to another class."""
    _begin_store(folder)
    moved = min((folder / "pictures/0").iterdir())
    moved.rename(folder / "pictures/1" / moved.name)
    return _finish(folder)


def make_indexing(folder):
    """An index, pictures for two more shards, and a row that is copied, since its neighbour is gone."""
    _begin_store(folder, "index")
    write_digits(folder / "pictures", per_class=2, classes=2, skip=2)
    min((folder / "pictures/2").iterdir()).unlink()
    return _finish(folder, "index")


def make_packing(folder):
    """An index that is packed."""
    _begin_store(folder, "index")
    return _finish(folder, "pack")


def make_takeover(folder):
    """As `make_adding`, after a run that was killed in its second shard."""
    scenario = make_adding(folder)
    names = [operation.name for operation in scenario.operations]
    renames = [number for number, name in enumerate(names) if name == "rename"]
    report = scenario.run(scenario.base, Fault(renames[1]))
    assert report.exit_code < 0
    assert len(report.committed) == 2
    scenario = replace(scenario, known=scenario.known | report.committed)
    scenario.prepare(folder / "undisturbed")
    return replace(scenario, operations=scenario.run(folder / "undisturbed").operations)


def _begin_store(folder, verb="embed"):
    """Seal a store of six pictures."""
    write_digits(folder / "pictures", per_class=2, classes=3)
    _age(folder / "pictures")
    (folder / "base").mkdir()
    command = Command(folder / "pictures", folder / "base", verb=verb)
    assert run_embedding(command, folder / "notes").result["new"] == 6


def _finish(folder, verb="embed"):
    source, base = folder / "pictures", folder / "base"
    _age(source)
    base.mkdir(exist_ok=True)
    path = base / "features/s.h5"
    old = read_content(path) if path.exists() else None
    known = frozenset(FeatureStore(path).sha256.tolist()) if old else frozenset()
    root = folder / "undisturbed"
    shutil.copytree(base, root)
    report = run_embedding(Command(source, root, verb=verb), folder / "notes")
    assert report.error is None
    assert report.result["tensorflow"] is False
    store = FeatureStore(root / "features/s.h5")
    assert list_left_over(root) == []
    known &= frozenset(store.sha256.tolist())  # without the rows of pictures that are gone
    return Scenario(source, base, old, read_content(store.path), known, store, report.operations, verb)


def _age(source):
    then = time.time() - _AGE_SECONDS
    for path in source.rglob("*.png"):
        os.utime(path, (then, then))


def read_content(path):
    """Read the bytes of every dataset of a store, but not how its features are divided among files."""
    content = {}

    def read(name, found):
        if isinstance(found, h5py.Dataset) and not name.startswith(("shards/", "pieces/", "blocks/features")):
            content[name] = found.dtype.str, found.shape, found[()].tobytes()

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(read)
    return content


def list_names(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def list_left_over(root):
    """List the files that do not belong to the store."""
    store = FeatureStore(root / "features/s.h5")
    shards = [f"features/s.h5.shards/{name}" for name in store.list_shards()]
    folders = ["features", *(["features/s.h5.shards"] if shards else [])]
    assert set(shards) <= set(list_names(root))
    return sorted(set(list_names(root)) - {*folders, "features/s.h5", *shards})


class Verdict:
    """The outcome of many broken runs of one scenario: counts of each harm, and its first few cases."""

    def __init__(self, scenario):
        self.harms = Counter(dict.fromkeys(("lost", "wrong", "unreadable", "not resumed", "not said"), 0))
        self.cases = []
        self._scenario = scenario
        self._stores = {}
        stores = [scenario.store, *([FeatureStore(scenario.base / "features/s.h5")] if scenario.old else [])]
        self._rows = {
            sha256: row.tobytes()
            for store in stores
            for sha256, row in zip(store.sha256.tolist(), store.features, strict=True)
        }

    def look(self, where, root, committed, *, done=False):
        """Read the files of a broken run with featx, and compare.

        Args:
            where: The fault, for the message.
            root: The files that the run left.
            committed: sha256 of the rows that must not be lost.
            done: Whether the run reported success.
        """
        path, scenario = root / "features/s.h5", self._scenario
        found = {}
        try:
            if path.exists() or scenario.old or done:
                content, rows = self._read_store(path)
                if content not in ([scenario.final] if done else [scenario.old or scenario.final, scenario.final]):
                    self.blame("wrong", where, f"the store is another one{' after success' * done}")
                found.update(rows)
            for shard in Journal(path, scenario.store.spec, scenario.store.dim, lambda: None).read_shards():
                found.update(zip(decode_text(shard.sha256).tolist(), shard.load(), strict=True))
        except StoreError as error:
            self.blame("unreadable", where, error)
        lost = (committed | scenario.known) - set(found)
        wrong = [sha256 for sha256, row in found.items() if row.tobytes() != self._rows.get(sha256)]
        for harm, rows in (("lost", lost), ("wrong", wrong)):
            if rows:
                self.blame(harm, where, f"{len(rows)} rows")

    def _read_store(self, path):
        """Read a whole store, but one with the same bytes only once."""
        files = [path, *sorted(path.parent.glob("s.h5.shards/*"))]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.exists())).digest()
        if digest not in self._stores:
            store = FeatureStore(path)
            content = None if store.find_damage() else read_content(path)
            self._stores[digest] = content, list(zip(store.sha256.tolist(), store.features, strict=True))
        return self._stores[digest]

    def resume(self, where, root, committed):
        """Run it again, undisturbed: it embeds no committed row, and makes the store of a run without faults."""
        scenario = self._scenario
        report = scenario.run(root)
        there = committed | scenario.known
        again = report.committed & there
        if report.error or report.result is None:
            self.blame("not resumed", where, report.error or report.exit_code)
        elif read_content(root / "features/s.h5") != scenario.final:
            self.blame("not resumed", where, "another store")
        elif left := list_left_over(root):
            self.blame("not resumed", where, f"left over: {left}")
        elif again or report.result["new"] > sum(one not in there for one in scenario.store.sha256.tolist()):
            self.blame("lost", where, f"{len(again)} rows embedded again: {report.result}")
        return report

    def blame(self, harm, where, what):
        """Count a harm, and record where it happened."""
        self.harms[harm] += 1
        self.cases.append(f"{harm} {where}: {what}")

    def conclude(self, **counts):
        """Print the counts, and fail if there was any harm."""
        print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in {**counts, **self.harms}.items()))  # noqa: T201
        assert not self.cases, "\n".join(list(dict.fromkeys(self.cases))[:20])
