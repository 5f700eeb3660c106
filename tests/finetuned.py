"""Make bundles as fine-tuning writes them, and damaged ones, from bundles of `fit`."""

import csv
import hashlib
import io
import json

FINETUNED = {
    "unfreeze": "last:23",
    "backbone": "colour",
    "trainable_parameters": 1_200_000,
    "frozen_parameters": 600_000,
    "head_parameters": 7_690,
    "epochs": 20,
    "best_epoch": 12,
    "seconds": 125.0,
    "elapsed_seconds": 118.0,
    "embed_seconds": 9.5,
    "peak_memory_bytes": 1_500_000_000,
    "cached": True,
    "views": 4,
    "augmentation": "mild",
}


def rewrite(bundle, name, text, **about):
    """Write a file of a bundle, and its digest and other values into `bundle.json`."""
    (bundle / name).write_text(text, encoding="utf-8", newline="")
    values = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    data = (bundle / name).read_bytes()
    values["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "bundle.json").write_text(json.dumps(values | about, indent=2), encoding="utf-8")


def read_rows(bundle, name):
    with (bundle / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(bundle, name, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    rewrite(bundle, name, text.getvalue())


def mark_finetuned(bundle, prefix="", **changes):
    """Make a bundle of `fit` look like one of a fine-tuned backbone.

    Its validation items are the training items whose ids begin with `prefix`, or every tenth.
    """
    metrics = json.loads((bundle / "metrics.json").read_text(encoding="utf-8"))
    metrics["finetuned"] = FINETUNED | changes
    rewrite(bundle, "metrics.json", json.dumps(metrics))
    rows = read_rows(bundle, "items.csv")
    trained = [row for row in rows if row["role"] == "trained"]
    for row in [row for row in trained if row["id"].startswith(prefix)] if prefix else trained[::10]:
        row["role"] = "validated"
    write_rows(bundle, "items.csv", rows)
    return bundle
