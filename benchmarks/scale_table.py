"""Print the tables of docs/scale.md: what 1 million, 100 million and 10 billion images take.

    python benchmarks/scale_table.py

Nothing is measured here. The constants come from the measurements that docs/scale.md names; change them to yours.
"""

from featx.cluster.planning import choose_size

COUNTS = {"1 million": 10**6, "100 million": 10**8, "10 billion": 10**10}

#: Bytes of an item besides its features: 90 of numbers and checksums, an id of 30 and a label of 10 characters.
ITEM_BYTES = 90 + 30 + 10

#: Dimension and bytes a number: MobileNetV2 or EfficientNet-Lite0, and InceptionV3 or ResNet50.
ROWS = {"1,280 float16": 2560, "1,280 float32": 5120, "2,048 float32": 8192}

#: Images a second of a device. Two cores of docs/performance.md, and what one process can decode at most.
DEVICES = {
    "2 cores, MobileNetV2": 313,
    "2 cores, InceptionV3": 37,
    "64 cores, MobileNetV2": 32 * 313,
    "64 cores, InceptionV3": 32 * 37,
    "a GPU that waits for its decoder": 2000,
    "50 such GPUs": 50 * 2000,
}

#: Names in one request of a listing; bytes of an image; images in a tar or Parquet file; bytes that one request reads
#: of the headers of a tar, which takes its images with it, or of a Parquet file.
NAMES, IMAGE_BYTES, PER_FILE, READ_BYTES = 1000, 100_000, 10_000, 8 << 20

#: List prices of S3 Standard in us-east-1, in dollars a request (aws.amazon.com/s3/pricing, 2026).
GET_DOLLARS, LIST_DOLLARS = 0.0004 / 1000, 0.005 / 1000

#: The driver: bytes of memory an item at its peak, and microseconds of a core an item.
DRIVER_BYTES, DRIVER_MICROSECONDS = 740, 30


def show_table(title, rows):
    """Print a table of Markdown with a column for each number of images."""
    print(f"\n| {title} | {' | '.join(COUNTS)} |\n|---|{'---:|' * len(COUNTS)}")
    for name, cells in rows:
        print(f"| {name} | {' | '.join(cells)} |")


def format_size(n_bytes):
    """Format bytes in decimal units."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.3g} {unit}"
    return f"{n_bytes / 1e6:,.3g} MB"


def format_hours(seconds):
    """Format a time in minutes, hours, days or years."""
    hours = seconds / 3600
    if hours < 1:
        return f"{max(1, seconds / 60):,.0f} min"
    if hours < 48:  # noqa: PLR2004 - two days
        return f"{hours:,.1f} h"
    days = hours / 24
    return f"{days:,.0f} days" if days < 3 * 365 else f"{days / 365:,.0f} years"


def main():
    """Print the tables."""
    counts = COUNTS.values()
    sizes = [(f"features, {name}", [format_size(row * n) for n in counts]) for name, row in ROWS.items()]
    sizes.append(("items and checksums", [format_size(ITEM_BYTES * n) for n in counts]))
    for name, row in ROWS.items():
        size = choose_size(10**12, 1, row)
        sizes.append((f"shards of {size:,} images, {name}", [f"{-(-n // size):,}" for n in counts]))
    sizes.append(("memory of the driver", [format_size(DRIVER_BYTES * n) for n in counts]))
    sizes.append(("time of the driver, one core", [format_hours(DRIVER_MICROSECONDS / 1e6 * n) for n in counts]))
    show_table("bytes and shards", sizes)
    show_table("time to embed", [(name, [format_hours(n / rate) for n in counts]) for name, rate in DEVICES.items()])
    parts = [n * IMAGE_BYTES // READ_BYTES + n // PER_FILE for n in counts]
    rows = []
    for name, gets, lists in (
        ("loose files", list(counts), [n // NAMES for n in counts]),
        (f"tar files of {PER_FILE:,} images", [n + part for n, part in zip(counts, parts, strict=True)], [0, 0, 0]),
        (f"Parquet files of {PER_FILE:,} images", parts, [0, 0, 0]),
    ):
        pairs = list(zip(gets, lists, strict=True))
        rows.append((name, [f"{get + names:,}" for get, names in pairs]))
        dollars = [get * GET_DOLLARS + names * LIST_DOLLARS for get, names in pairs]
        rows.append(("their price", [f"${one:,.2f}" if one >= 0.01 else "under $0.01" for one in dollars]))  # noqa: PLR2004 - a cent
    show_table("requests", rows)


if __name__ == "__main__":
    main()
