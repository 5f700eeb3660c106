import errno
import hashlib
import threading

import numpy as np
import pytest
from image_files import make_file

from featx.items import FileStat, Item, Manifest
from featx.items.reading import Stamp, examine
from featx.measuring import Timing
from featx.specs import ImageSpec

SPEC = ImageSpec(8, 8)


class Shelf:
    """A reader of files in memory that records which of them are read."""

    def __init__(self, files):
        self.files = files
        self.reads = []

    def stat(self, item_id):
        if isinstance(self.files[item_id], OSError):
            raise self.files[item_id]
        return FileStat(len(self.files[item_id]), 1000)

    def read(self, item_id):
        self.reads.append(item_id)
        return self.files[item_id]


@pytest.fixture
def shelf():
    return Shelf(
        {
            "a.png": make_file("png"),
            "b.jpg": make_file("jpeg"),
            "copy of a.png": make_file("png"),
            "page.jpg": b"<html>",
            "gone.png": FileNotFoundError(2, "No such file or directory", "gone.png"),
            "copy of page.jpg": b"<html>",
            "damaged.png": OSError("damaged in the archive"),
        }
    )


def run(shelf, known=frozenset(), stamps=None, workers=1):
    stamps = [stamps.get(name) for name in shelf.files] if stamps else ()
    manifest = Manifest(tuple(Item(name) for name in shelf.files), shelf, "shelf")
    return list(examine(manifest, SPEC, known=known, stamps=stamps, workers=workers, timing=Timing()))


def hash_file(data):
    return hashlib.sha256(data).hexdigest()


def test_every_item_comes_in_order_with_its_content_or_a_reason(shelf):
    found = run(shelf)
    assert [examined.item.id for examined in found] == list(shelf.files)
    assert [examined.image is not None for examined in found] == [True, True, False, False, False, False, False]
    for examined, data in zip(found[:4], shelf.files.values(), strict=False):
        assert examined.stamp == Stamp(hash_file(data), FileStat(len(data), 1000))
    assert found[0].image.pixels.shape == (8, 8, 3)
    assert (found[0].image.width_px, found[0].image.height_px) == (320, 214)


def test_reasons_say_what_is_wrong(shelf):
    reasons = {examined.item.id: examined.reason for examined in run(shelf) if examined.reason}
    assert reasons["page.jpg"].startswith("not an image: it starts with b'<html>'")
    assert reasons["gone.png"] == "cannot be read: No such file or directory"
    assert reasons["damaged.png"] == "cannot be read: damaged in the archive"
    assert len(reasons) == 3  # the copy of the page has that of the page


def test_an_unreadable_file_has_no_identity(shelf):
    assert [examined.item.id for examined in run(shelf) if examined.stamp is None] == ["gone.png", "damaged.png"]


@pytest.mark.parametrize(
    ("error", "is_momentary"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (OSError(errno.EFBIG, "larger than 9 bytes"), False),
        (OSError("damaged in the archive"), False),
        (FileNotFoundError("the archive has no item 'a.png'"), False),
    ],
)
def test_momentary_errors_differ_from_lasting_ones(shelf, error, is_momentary):
    shelf.files = {"a.png": error}
    assert run(shelf)[0].is_momentary is is_momentary


@pytest.mark.parametrize("workers", [1, 4])
def test_identical_files_are_decoded_once(shelf, workers):
    shelf.files = {f"{number}.png": make_file("png") for number in range(40)}
    found = run(shelf, workers=workers)
    assert sum(examined.image is not None for examined in found) == 1
    assert {examined.stamp.sha256 for examined in found} == {hash_file(make_file("png"))}


def test_known_content_is_hashed_and_not_decoded(shelf):
    found = run(shelf, known={hash_file(make_file("png"))})
    assert [examined.item.id for examined in found if examined.image is not None] == ["b.jpg"]
    assert found[0].stamp.sha256 == hash_file(make_file("png"))


def test_without_known_content_every_item_has_its_image_or_reason(shelf):
    found = run(shelf, known=None)
    assert all((examined.image is None) == bool(examined.reason) for examined in found)
    assert np.array_equal(found[0].image.pixels, found[2].image.pixels)


def test_a_file_of_unchanged_size_and_time_is_not_read(shelf):
    seen = Stamp("seen", FileStat(len(shelf.files["a.png"]), 1000))
    found = run(shelf, stamps={"a.png": seen})
    assert found[0].stamp == seen
    assert "a.png" not in shelf.reads


@pytest.mark.parametrize("changed", [FileStat(1, 1000), FileStat(len(make_file("png")), 1001)])
def test_a_file_of_another_size_or_time_is_read_again(shelf, changed):
    found = run(shelf, stamps={"a.png": Stamp("seen", changed)})
    assert found[0].stamp.sha256 == hash_file(make_file("png"))


def test_a_file_that_grows_while_it_is_read_is_recorded_as_it_was_read(shelf):
    shelf.files = {"a.png": make_file("png")}
    shelf.stat = lambda _: FileStat(3, 1000)
    assert run(shelf)[0].stamp.stat == FileStat(len(make_file("png")), 1000)


@pytest.mark.parametrize(("side", "most"), [(8, 256), (1024, 21), (8192, 3)])
def test_the_number_of_items_in_memory_is_limited(shelf, side, most):
    shelf.files = {f"{number}.png": b"x" for number in range(300)}
    manifest = Manifest(tuple(Item(name) for name in shelf.files), shelf, "shelf")
    spec = ImageSpec(side, side)
    running = examine(manifest, spec, known=frozenset(), stamps=(), workers=2, timing=Timing())
    next(running)
    assert 0 < len(shelf.reads) <= most
    running.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("featx-prefetch")]
