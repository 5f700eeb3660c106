"""A process that flips one bit of a store at a time and prints the result of its verification, as JSON lines.

It is a process of its own since damage can end or stall HDF5 itself: then the last line is missing.
"""

import faulthandler
import hashlib
import json
import sys
from pathlib import Path

from featx.errors import StoreFormatError
from featx.store.verification import verify_store

_MOST_SECONDS = 10


def main():
    path, flips = Path(sys.argv[1]), json.loads(sys.argv[2])
    data = path.read_bytes()
    copy = path.with_name("flipped.h5")
    for offset, bit in flips:
        changed = bytearray(data)
        changed[offset] ^= 1 << bit
        copy.unlink(missing_ok=True)  # the last copy may still be mapped
        copy.write_bytes(changed)
        faulthandler.dump_traceback_later(_MOST_SECONDS, exit=True)
        sys.stdout.write(json.dumps(describe(copy)) + "\n")
        sys.stdout.flush()
        faulthandler.cancel_dump_traceback_later()


def describe(path):
    try:
        found = verify_store(path)
    except StoreFormatError as error:
        return {"refused": str(error)}
    damage = [[part.part, part.first, part.past] for part in found.damage]
    return {"damage": damage, "content": digest(found.store)}


def digest(store):
    """Return a sha256 over everything that a reader gets from a store."""
    content = hashlib.sha256(store.features.tobytes())
    for values in store.columns.values():
        content.update(repr(values.tolist()).encode("utf-8", "surrogateescape"))
    about = {**store.describe(), "store": "", "golden": [file.hex() for file in store.golden.files]}
    content.update(json.dumps([about, store.golden.features.tolist(), store.quarantine]).encode())
    return content.hexdigest()


if __name__ == "__main__":
    main()
