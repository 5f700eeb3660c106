"""`featx pack`."""

from featx.cli import flags
from featx.cli.output import print_json, print_text
from featx.reporting import ProgressReporter
from featx.wording import format_bytes, format_plural

EXAMPLE = "featx pack features/mobilenetv2.h5"


def pack(store: flags.Store, as_json: flags.Json = False) -> None:
    """Make one file of a feature store whose features are in shards beside it.

    Large stores are written so. As one file, a store can be published, or moved alone. The shards are removed.
    """
    import featx

    with ProgressReporter("checking") as reporter:
        n_shards = len(featx.FeatureStore(store).list_shards())
        packed = featx.pack_store(store, reporter.advance)
    size = packed.count_bytes()
    if as_json:
        print_json({"store": str(packed.path), "items": len(packed), "shards": n_shards, "bytes": size})
    elif n_shards:
        print_text(f"{format_plural(n_shards, 'shard')}, {format_bytes(size)} -> {packed.path}")
    else:
        print_text(f"{store}: one file already")
