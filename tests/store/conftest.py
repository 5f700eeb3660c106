import hashlib

import numpy as np
import pytest

from featx.golden import Golden
from featx.specs import BackboneSpec, EmbedSpec, ImageSpec
from featx.store.sealing import Provenance
from featx.store.writing import StoreWriter


class Maker:
    """Makes stores of numbered rows: row `n` belongs to the item `n.png`."""

    dim = 6
    golden = Golden((b"one picture", b"another"), np.ones((2, dim), np.float32))

    def __init__(self, folder):
        self.path = folder / "features" / "made.h5"

    def make_sha256(self, number):
        return hashlib.sha256(str(number).encode()).hexdigest()

    def make_row(self, number):
        return np.arange(self.dim, dtype=np.float32) + np.float32(number) / 8

    def make_rows(self, numbers):
        return np.stack([self.make_row(number) for number in numbers])

    def make_spec(self, *, layer="top", dtype="float32", height=8):
        backbone = BackboneSpec("made", layer, "none", "computed", "0" * 64)
        return EmbedSpec(backbone, ImageSpec(height, 8), dtype)

    def open_writer(self, spec=None, *, source="/pictures", backbone_file="", stack="1.0", **options):
        shape = (2, self.dim // 2)
        provenance = Provenance(source, {"numpy": stack}, "numpy", 0.0, shape, backbone_file, self.golden, 7)
        return StoreWriter(self.path, spec or self.make_spec(), provenance, **options)

    def append(self, writer, numbers):
        for number in numbers:
            writer.append(self.make_sha256(number), 10 + number, 20, self.make_row(number))

    def make_columns(self, numbers, **changed):
        columns = {
            "id": [f"{number}.png" for number in numbers],
            "sha256": [self.make_sha256(number) for number in numbers],
            "bytes": [100 + number for number in numbers],
            "mtime_ns": [0 for _ in numbers],
            "label": ["even" if number % 2 == 0 else "odd" for number in numbers],
            "split": ["" for _ in numbers],
            "group": ["" for _ in numbers],
        }
        return {**columns, **changed}

    def seal(self, numbers, spec=None, *, new=None, quarantine=(), **options):
        numbers = list(numbers)
        columns = {name: [row[at] for row in quarantine] for at, name in enumerate(("id", "sha256", "reason"))}
        with self.open_writer(spec, **options) as writer:
            self.append(writer, numbers if new is None else new)
            return writer.seal(self.make_columns(numbers), columns)


@pytest.fixture
def maker(tmp_path):
    return Maker(tmp_path)


@pytest.fixture
def list_files(maker):
    """List the content of the folder of the stores, by name."""
    return lambda: sorted(str(path.relative_to(maker.path.parent)) for path in maker.path.parent.rglob("*"))
