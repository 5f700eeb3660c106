"""Does `featx audit` find planted faults in real photographs, and only those?

In a copy of a data set, 5 % of the items get a near-copy (saved at quality 60, reduced to 70 %, cropped by 5 %,
mirrored, brightness 0.8 or 1.25), 3 % another label, and 1 % as many pictures of another data set are added. Precision
and recall of the audit's defaults are printed beside those of a cosine of 0.95 between features, and of perceptual
hashes if imagehash is installed; for labels, the average precision beside that of cleanlab called directly with the
same probabilities. Copies that the data set has by itself count as wrong, so that precision is a lower bound.

What would change our mind: a recall of copies without mirroring below 0.95, or a precision below it.

`poor` asks the same of exposure and blur: 10 % of the pictures are changed in place, by 2 and 3 stops in linear light,
by a Gaussian blur whose standard deviation is 1 or 2 % of the shorter side, or by a motion of 5 % of it. Poor
pictures that the data set has by itself count as wrong.

    python benchmarks/audit.py faults SOURCE FOREIGN --backbone mobilenetv2
    python benchmarks/audit.py poor SOURCE
"""

import argparse
import io
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

import featx
from featx.audit.auditing import audit_store
from featx.audit.near_copies import find_pairs
from featx.errors import FeatxError
from featx.heads.rows import FeatureRows

KINDS = ("saved", "reduced", "cropped", "mirrored", "brightness")

#: How pictures are made poor: stops of exposure, shares of the shorter side of a blur, and of a motion.
POOR = {
    "under 2 stops": ("exposure", -2),
    "under 3 stops": ("exposure", -3),
    "over 2 stops": ("exposure", 2),
    "over 3 stops": ("exposure", 3),
    "blur 1 %": ("blur", 0.01),
    "blur 2 %": ("blur", 0.02),
    "motion 5 %": ("motion", 0.05),
}


def alter(image: Image.Image, kind: str, generator: np.random.Generator) -> tuple[Image.Image, int]:
    """Return a near-copy and the quality at which it is saved."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = image.size
    if kind == "saved":
        return image, 60
    if kind == "reduced":
        return image.resize((max(1, round(0.7 * width)), max(1, round(0.7 * height))), Image.Resampling.BILINEAR), 90
    if kind == "cropped":
        left, top = round(0.025 * width), round(0.025 * height)
        return image.crop((left, top, width - left, height - top)), 90
    if kind == "mirrored":
        return ImageOps.mirror(image), 90
    return ImageEnhance.Brightness(image).enhance(float(generator.choice((0.8, 1.25)))), 90


def spoil(image: Image.Image, how: str, amount: float) -> Image.Image:
    """Return a picture that is wrongly exposed, blurred, or was moved."""
    image = ImageOps.exif_transpose(image).convert("RGB")
    if how == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount * min(image.size)))
    levels = np.asarray(image, np.float64) / 255
    if how == "motion":
        steps = max(2, round(amount * min(image.size)))
        levels = np.mean([np.roll(levels, step, axis=1) for step in range(steps)], axis=0)
    else:
        # Light is about the power 2.2 of levels; the foot of sRGB is left out.
        levels = np.minimum(levels**2.2 * 2.0**amount, 1) ** (1 / 2.2)
    return Image.fromarray(np.round(255 * levels).astype(np.uint8))


def measure_poor(source: str, share: float, seed: int) -> None:
    """Spoil a share of the pictures, audit, and print one line of JSON."""
    generator = np.random.default_rng(seed)
    manifest = featx.read_source(source)
    spoiled = generator.permutation(len(manifest))[: max(len(POOR), round(share * len(manifest)))].tolist()
    planted: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "planted"
        for number, item in enumerate(manifest.items):
            path = folder / item.label / item.id.replace("/", "__")
            path.parent.mkdir(parents=True, exist_ok=True)
            data = manifest.reader.read(item.id)
            if number in spoiled:
                kind = list(POOR)[spoiled.index(number) % len(POOR)]
                planted[path.relative_to(folder).as_posix()] = kind
                spoil(Image.open(io.BytesIO(data)), *POOR[kind]).save(path, "JPEG", quality=90)
            else:
                path.write_bytes(data)
        audit = audit_store(featx.embed(folder, "colour", folder=Path(name) / "features").store)
    kinds = {name: "exposure" if POOR[kind][0] == "exposure" else "blur" for name, kind in planted.items()}
    result: dict[str, object] = {"source": source, "items": audit.n_items, "seed": seed}
    for kind in ("exposure", "blur"):
        found = {one.id for one in audit.list_kind(kind)}
        right = {name for name in found if kinds.get(name) == kind}
        of_kind = [name for name in planted if kinds[name] == kind]
        result[kind] = {
            "planted": len(of_kind),
            "found": len(found),
            "precision": len(right) / len(found) if found else float("nan"),
            "recall": len(right) / len(of_kind),
            "wrong": sorted(found - right),
        }
    found = {(one.id, one.kind) for one in audit.findings}
    for kind in POOR:
        names = [name for name, own in planted.items() if own == kind]
        result[kind] = sum((name, kinds[name]) in found for name in names) / len(names)
    print(json.dumps(result))


def plant(source: str, foreign: str, folder: Path, seed: int) -> dict[str, dict[str, str]]:
    """Write the data set with its faults; return what was planted: copies (id: kind), labels (id: true), foreign."""
    generator = np.random.default_rng(seed)
    manifest, other = featx.read_source(source), featx.read_source(foreign)
    classes = sorted(manifest.count_classes())
    order = generator.permutation(len(manifest))
    n_copies, n_labels, n_foreign = (max(5, round(share * len(manifest))) for share in (0.05, 0.03, 0.01))
    flipped = set(order[:n_labels].tolist())
    planted: dict[str, dict[str, str]] = {"copies": {}, "labels": {}, "foreign": {}}
    for number, item in enumerate(manifest.items):
        label = item.label
        if number in flipped:
            label = str(generator.choice([name for name in classes if name != item.label]))
        name = f"{label}/{item.id.replace('/', '__')}"
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(manifest.reader.read(item.id))
        if number in flipped:
            planted["labels"][name] = item.label
    for number, row in enumerate(order[n_labels : n_labels + n_copies]):
        item, kind = manifest.items[row], KINDS[number % len(KINDS)]
        image, quality = alter(Image.open(io.BytesIO(manifest.reader.read(item.id))), kind, generator)
        name = f"{item.label}/{item.id.replace('/', '__')}__{kind}.jpg"
        image.save(folder / name, quality=quality)
        planted["copies"][name] = kind
    for row in generator.permutation(len(other))[:n_foreign]:
        item = other.items[row]
        name = f"{generator.choice(classes)}/foreign__{item.id.replace('/', '__')}"
        (folder / name).write_bytes(other.reader.read(item.id))
        planted["foreign"][name] = item.label
    return planted


def score_pairs(pairs: set[frozenset[str]], copies: dict[str, str]) -> dict[str, float]:
    """Return precision and recall of pairs of ids, and recall without mirrored copies."""
    true = {frozenset((name, name.rsplit("__", 1)[0])): kind for name, kind in copies.items()}
    right = pairs & set(true)
    plain = [pair for pair, kind in true.items() if kind != "mirrored"]
    return {
        "precision": len(right) / len(pairs) if pairs else float("nan"),
        "recall": len(right) / len(true),
        "recall_without_mirrored": sum(pair in pairs for pair in plain) / len(plain),
    }


def find_hash_pairs(folder: Path, ids: list[str], distance: int) -> set[frozenset[str]]:
    """Find pairs by perceptual hashes of 64 bits, as imagededup and imagehash compute them."""
    from imagehash import phash

    hashes = {name: phash(Image.open(folder / name)) for name in ids}
    names, bits = list(hashes), np.array([value.hash.ravel() for value in hashes.values()])
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    first, second = np.nonzero(np.triu(apart <= distance, 1))
    return {frozenset((names[a], names[b])) for a, b in zip(first, second, strict=True)}


def score_labels(audit: featx.Audit, planted: dict[str, str], store: featx.FeatureStore) -> dict[str, float]:
    """Return precision and recall of suspicious labels, and average precision beside cleanlab's own ranking."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.metrics import average_precision_score

    found = audit.list_kind("suspicious label")
    right = [finding for finding in found if finding.id in planted]
    run = featx.fit(store, "logreg", options=featx.FitOptions(cv=5, folder=None))
    columns = run.tested
    classes = [name for name in columns if name.startswith("probability_")]
    targets = np.array([classes.index(f"probability_{label}") for label in columns["label"]])
    quality = get_label_quality_scores(targets, np.column_stack([columns[name] for name in classes]))
    wrong = np.array([name in planted for name in columns["id"]])
    # What is not suspicious follows what is, in cleanlab's order.
    suspicious = {finding.id for finding in found}
    own = np.array([name in suspicious for name in columns["id"]]) + 1 - quality
    return {
        "precision": len(right) / len(found) if found else float("nan"),
        "recall": len(right) / len(planted),
        "average_precision": average_precision_score(wrong, own),
        "average_precision_of_cleanlab": average_precision_score(wrong, 1 - quality),
    }


def measure(source: str, foreign: str, backbone: str, seed: int) -> None:
    """Plant faults, audit, and print one line of JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "planted"
        planted = plant(source, foreign, folder, seed)
        store = featx.embed(folder, backbone, folder=Path(name) / "features").store
        audit = audit_store(store)
        groups: dict[str, list[str]] = {}
        for finding in audit.list_kind("near-copy"):
            groups.setdefault(finding.group, []).append(finding.id)
        near = {frozenset((a, b)) for ids in groups.values() for i, a in enumerate(ids) for b in ids[i + 1 :]}
        cosine = find_pairs(FeatureRows(store.features), 0.95)
        ids = store.ids.tolist()
        by_cosine = {frozenset((ids[a], ids[b])) for a, b in zip(cosine.first, cosine.second, strict=True)}
        result = {
            "source": source,
            "backbone": backbone,
            "items": len(store),
            "near_copies": score_pairs(near, planted["copies"]),
            "cosine_0.95": score_pairs(by_cosine, planted["copies"]),
            "labels": score_labels(audit, planted["labels"], store),
            "foreign_found": sum(one.id in planted["foreign"] for one in audit.list_kind("outlier")),
            "foreign": len(planted["foreign"]),
            "outliers": len(audit.list_kind("outlier")),
        }
        try:
            result |= {f"phash_{d}": score_pairs(find_hash_pairs(folder, ids, d), planted["copies"]) for d in (4, 10)}
        except ModuleNotFoundError:
            result["phash"] = "imagehash is not installed"
        print(json.dumps(result))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    faults = verbs.add_parser("faults")
    faults.add_argument("source")
    faults.add_argument("foreign")
    faults.add_argument("--backbone", default="mobilenetv2")
    poor = verbs.add_parser("poor")
    poor.add_argument("source")
    poor.add_argument("--share", type=float, default=0.1)
    for verb in (faults, poor):
        verb.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        if arguments.verb == "faults":
            measure(arguments.source, arguments.foreign, arguments.backbone, arguments.seed)
        else:
            measure_poor(arguments.source, arguments.share, arguments.seed)
    except FeatxError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
