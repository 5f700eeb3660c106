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

`leaks` asks what honest numbers gain. Each picture gets a near-copy, and the whole is embedded and audited once. Each
seed then takes the copies of a share of the pictures, and tests a head on a fifth: of all items by a plain stratified
split, of the same items with `--group audit.csv`, and of the pictures without copies. The given splits are not used.

`pairs` asks what the screen saves. Features are made in clusters, not negative, with most energy in few directions, as
behind a ReLU; 1 % are near-copies of others. All pairs are found by the audit's own function from a file that is
mapped, and by products of whole rows, of a sample of the blocks, whose time is scaled to all. The pairs of the sample
must be equal. What would change our mind: more than a fifth of the time of all products, or 1.5 GiB.

    python benchmarks/audit.py faults SOURCE FOREIGN --backbone mobilenetv2
    python benchmarks/audit.py poor SOURCE
    python benchmarks/audit.py leaks SOURCE --backbone mobilenetv2 --share 0.5
    python benchmarks/audit.py pairs --items 100000 --dim 1280
"""

import argparse
import io
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

import featx
from featx.audit.auditing import audit_store
from featx.audit.near_copies import find_pairs
from featx.errors import FeatxError
from featx.heads.rows import FeatureRows
from featx.measuring import watch_memory

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


#: Rows of one block of products.
BLOCK = 1024


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
        near = list_near_pairs(audit)
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


def measure_leaks(source: str, backbone: str, shares: list[float], heads: list[str], seeds: int) -> None:
    """Measure accuracy with near-copies across splits, with them in groups, and without them; print lines of JSON."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        copies = copy_all(featx.read_source(source), root / "planted")
        store = featx.embed(root / "planted", backbone, folder=root / "features").store
        table = root / "audit.csv"
        audit = audit_store(store)
        audit.to_frame().to_csv(table, index=False)
        score = score_pairs(list_near_pairs(audit), {copy: copy.rsplit("__", 1)[1][:-4] for copy in copies})
        print(json.dumps({"source": source, "items": len(store), "near_copies": score}), flush=True)
        for head, share in itertools.product(heads, shares):
            found: dict[str, list[float]] = {"plain": [], "grouped": [], "clean": []}
            for seed in range(seeds):
                chosen = np.random.default_rng(seed).random(len(copies)) < share
                rest, every = root / "rest.csv", root / "every.csv"
                rest.write_text("\n".join(["id", *np.array(copies)[~chosen].tolist()]))
                every.write_text("\n".join(["id", *copies]))
                for kind, group, without in (("plain", "", rest), ("grouped", table, rest), ("clean", "", every)):
                    options = featx.FitOptions(group=str(group), without=without, seed=seed, folder=None)
                    found[kind].append(featx.fit(store, head, options=options).test.accuracy)
            means = {kind: round(float(np.mean(values)), 4) for kind, values in found.items()}
            apart = {
                f"{kind} - clean": [round(float(part), 4) for part in compare_pairs(found[kind], found["clean"])]
                for kind in ("plain", "grouped")
            }
            print(json.dumps({"head": head, "share": share, "seeds": seeds, **means, **apart}), flush=True)


def compare_pairs(first: list[float], second: list[float]) -> tuple[float, float]:
    """Return the mean difference of pairs, and its standard error."""
    apart = np.subtract(first, second)
    return apart.mean(), apart.std(ddof=1) / np.sqrt(len(apart))


def copy_all(manifest: featx.Manifest, folder: Path) -> list[str]:
    """Write a data set without its splits, with a near-copy of each picture; return the ids of the copies."""
    generator = np.random.default_rng(0)
    copies = []
    for number, item in enumerate(manifest.items):
        name, kind = f"{item.label}/{item.id.replace('/', '__')}", KINDS[number % len(KINDS)]
        (folder / item.label).mkdir(parents=True, exist_ok=True)
        data = manifest.reader.read(item.id)
        (folder / name).write_bytes(data)
        image, quality = alter(Image.open(io.BytesIO(data)), kind, generator)
        copies.append(f"{name}__{kind}.jpg")
        image.save(folder / copies[-1], quality=quality)
    return copies


def list_near_pairs(audit: featx.Audit) -> set[frozenset[str]]:
    """List the pairs of ids that are in one group of near-copies."""
    groups: dict[str, list[str]] = {}
    for finding in audit.list_kind("near-copy"):
        groups.setdefault(finding.group, []).append(finding.id)
    return {frozenset(pair) for ids in groups.values() for pair in itertools.combinations(ids, 2)}


def make_rows(path: Path, items: int, dim: int, dtype: str) -> np.ndarray:
    """Write synthetic features to a file, and map it."""
    generator = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", dtype, (items, dim))
    n_strong = min(dim, 100)
    directions = generator.standard_normal((n_strong, dim)) * (1 + np.arange(n_strong))[:, None] ** -0.5
    centres = generator.standard_normal((200, n_strong)) * 1.5
    for start in range(0, items, BLOCK):
        count = min(BLOCK, items - start)
        strong = centres[generator.integers(200, size=count)] + generator.standard_normal((count, n_strong))
        block = strong @ directions + 0.5 * generator.standard_normal((count, dim))
        rows[start : start + count] = np.maximum(block, 0)
    for copy in generator.permutation(items)[: items // 100]:
        other = rows[generator.integers(items)].astype(np.float32)
        rows[copy] = np.maximum(other + 0.05 * other.std() * generator.standard_normal(dim), 0)
    rows.flush()
    return np.load(path, mmap_mode="r")


def multiply_all(rows: np.ndarray, threshold: float, blocks: list[int]) -> tuple[set[tuple[int, int]], float]:
    """Find the pairs of some blocks of rows with all later rows by whole products; return them and the seconds used."""
    unit = np.array(rows, np.float32)
    started = time.process_time()
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-30)
    normalising, pairs = time.process_time() - started, set[tuple[int, int]]()
    started = time.process_time()
    for start in blocks:
        for other in range(start, len(unit), BLOCK):
            first, second = np.nonzero(unit[start : start + BLOCK] @ unit[other : other + BLOCK].T >= threshold)
            pairs |= {(int(a), int(b)) for a, b in zip(first + start, second + other, strict=True) if a < b}
    done = sum(len(unit) - start for start in blocks)
    total = sum(len(unit) - start for start in range(0, len(unit), BLOCK))
    return pairs, normalising + (time.process_time() - started) * total / done


def measure_pairs(items: int, dim: int, dtype: str, sampled: int) -> None:
    """Measure the search for near-copies among synthetic features; print one line of JSON."""
    threshold = 0.95
    with tempfile.TemporaryDirectory() as name:
        rows = make_rows(Path(name) / "rows.npy", items, dim, dtype)
        started, clock, read_peak = time.process_time(), time.perf_counter(), watch_memory()
        found = find_pairs(FeatureRows(rows), threshold)
        seconds, elapsed, peak = time.process_time() - started, time.perf_counter() - clock, read_peak()
        blocks = list(range(0, items, BLOCK))[:: max(1, items // BLOCK // sampled)]
        exact, all_seconds = multiply_all(rows, threshold, blocks)
    own = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    own = {(first, second) for first, second in own if first // BLOCK * BLOCK in blocks}
    result = {
        "items": items,
        "dim": dim,
        "dtype": dtype,
        "pairs": len(found),
        "computed_in_full": found.n_screened,
        "processor_seconds": round(seconds, 1),
        "seconds": round(elapsed, 1),
        "peak_bytes": peak,
        "all_products_seconds": round(all_seconds, 1),
        "ratio": round(seconds / all_seconds, 3),
        "sampled_blocks": len(blocks),
        "pairs_in_sample": len(exact),
        "different": len(own ^ exact),
    }
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
    leaks = verbs.add_parser("leaks")
    leaks.add_argument("source")
    leaks.add_argument("--backbone", default="mobilenetv2")
    leaks.add_argument("--share", type=float, nargs="+", default=[0.2, 1.0])
    leaks.add_argument("--head", nargs="+", default=["logreg", "knn"])
    leaks.add_argument("--seeds", type=int, default=5)
    pairs = verbs.add_parser("pairs")
    pairs.add_argument("--items", type=int, default=100_000)
    pairs.add_argument("--dim", type=int, default=1280)
    pairs.add_argument("--dtype", default="float32")
    pairs.add_argument("--sampled", type=int, default=5)
    arguments = parser.parse_args()
    try:
        if arguments.verb == "faults":
            measure(arguments.source, arguments.foreign, arguments.backbone, arguments.seed)
        elif arguments.verb == "leaks":
            measure_leaks(arguments.source, arguments.backbone, arguments.share, arguments.head, arguments.seeds)
        elif arguments.verb == "pairs":
            measure_pairs(arguments.items, arguments.dim, arguments.dtype, arguments.sampled)
        else:
            measure_poor(arguments.source, arguments.share, arguments.seed)
    except FeatxError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
