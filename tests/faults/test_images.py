"""Every file of the corpus gives what the table in the docs says, and harms no other."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from faults.corpus import CORPUS, EMBEDDED, LEFT_OUT, QUARANTINED, write_corpus

from featx import embed, load_backbone, read_folder
from featx.items.decoding import decode, probe
from featx.specs import ImageSpec

DOCUMENT = Path(__file__).parents[2] / "docs" / "images.md"
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's, of a picture that is whole
SIZE = {"height": 32, "width": 32}
MAX_MEMORY_BYTES = 2**30
MAX_SECONDS = 10

#: A process of its own forks a child per file, which has loaded nothing but featx.
EMBED_ALONE = """
import contextlib
import json
import os
import resource
import sys
from pathlib import Path

import featx
from featx.backbones import colour
from featx.errors import SourceError
from featx.items import FolderReader

source, target = sys.argv[1:]
unit = 1 if sys.platform == "darwin" else 1024
for item in featx.read_folder(source).items:
    if not (child := os.fork()):
        manifest = featx.Manifest((item,), FolderReader(source), source)
        with contextlib.suppress(SourceError):
            featx.embed(manifest, "colour", name=str(os.getpid()), folder=target)
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime  # not the clock's, which a busy machine stretches
    print(json.dumps([item.id, status, usage.ru_maxrss * unit, seconds]), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus") / "files"


@pytest.fixture(scope="module")
def unmade(folder):
    return write_corpus(folder)


@pytest.fixture(scope="module")
def manifest(folder, unmade):
    return read_folder(folder)


@pytest.fixture(scope="module")
def store(manifest, tmp_path_factory):
    result = embed(manifest, "colour", image=SIZE, folder=tmp_path_factory.mktemp("features"))
    assert (result.new + result.quarantined, result.cached) == (len(manifest), 0)
    return result.store


def choose(outcome):
    entries = [entry for entry in CORPUS if entry.outcome == outcome]
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.what)


def skip_unmade(entry, unmade):
    if entry.file in unmade:
        pytest.skip(f"this system cannot make the {entry.what}: {unmade[entry.file]}")


@choose(EMBEDDED)
def test_a_valid_picture_is_decoded_and_embedded(entry, folder, unmade, store):
    skip_unmade(entry, unmade)
    data = (folder / entry.id).read_bytes()
    header = probe(data)
    if entry.pixels.ndim > 1:
        assert (header.height_px, header.width_px, 3) == entry.pixels.shape
        pixels = decode(data, ImageSpec(header.height_px, header.width_px)).pixels
    else:
        pixels = decode(data, ImageSpec(**SIZE)).pixels
    assert np.abs(pixels - entry.pixels.astype(float)).max() <= entry.tolerance
    (row,) = np.flatnonzero(store.ids == entry.id)
    assert store.sizes_px[row].tolist() == [header.width_px, header.height_px]
    alone = load_backbone("colour", image_size=(32, 32)).embed(decode(data, ImageSpec(**SIZE)).pixels[None])[0][0]
    assert np.array_equal(store.features[row], alone)
    assert store.features[row].any()


@choose(QUARANTINED)
def test_an_invalid_picture_is_quarantined_with_its_reason(entry, unmade, store):
    skip_unmade(entry, unmade)
    (reason,) = [reason for name, _, reason in store.quarantine if name == entry.id]
    assert entry.note in reason
    assert len(reason) < 250
    assert reason.isprintable()


@choose(LEFT_OUT)
def test_junk_is_left_out(entry, unmade, manifest):
    skip_unmade(entry, unmade)
    assert entry.id not in {item.id for item in manifest.items}


def test_nothing_else_comes_out(manifest, unmade, store):
    made = [entry for entry in CORPUS if entry.file not in unmade]
    assert sorted(store.ids) == sorted(entry.id for entry in made if entry.outcome == EMBEDDED)
    assert [row[0] for row in store.quarantine] == sorted(entry.id for entry in made if entry.outcome == QUARANTINED)
    assert manifest.junk == Counter(entry.note for entry in made if entry.outcome == LEFT_OUT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="memory is measured in forked children")
def test_each_alone_takes_less_than_a_gibibyte_and_ten_seconds(folder, manifest, tmp_path, capsys):
    command = [sys.executable, "-c", EMBED_ALONE, str(folder), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == [item.id for item in manifest.items]
    assert [row for row in rows if row[1] != 0 or row[2] >= MAX_MEMORY_BYTES or row[3] >= MAX_SECONDS] == []
    largest, slowest = max(rows, key=lambda row: row[2]), max(rows, key=lambda row: row[3])
    with capsys.disabled():
        print(  # noqa: T201 - the figures are part of what is shown
            f"\n{len(rows)} files, each alone: at most {largest[2] / 2**20:.0f} MiB ({largest[0]}) "
            f"and {slowest[3]:.1f} s ({slowest[0]})"
        )


def test_the_table_in_the_docs_is_the_corpus():
    assert len(CORPUS) >= 45
    tables = [part for part in DOCUMENT.read_text(encoding="utf-8").split("\n\n") if part.startswith("| file |")]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", "\n".join(tables), re.MULTILINE)
    assert [row for row in rows if row[0] != "file"] == [entry.row for entry in CORPUS]
