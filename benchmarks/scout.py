"""What does `featx scout` save, and does a sample choose what all training images choose?

    python benchmarks/scout.py time SOURCE [--rounds 3]
    python benchmarks/scout.py choice SOURCE [--samples 0.2 --seeds 5] [--page docs/scout.md --name "sign digits"]

SOURCE has a train split and another one, as a folder or a table, so that `embed --only split=train` embeds the same
images as the scout. The backbones are those of `--backbones`, each cut at three layers.

`time` alternates, each round from empty folders, with a warm cache of converted networks (FEATX_CACHE):

- `scout`: one `featx scout` for all backbones and layers, with its probes and rates;
- `networks`: one `featx embed` for each backbone, with its three layers in one pass;
- `layers`: one `featx embed` for each backbone and layer.

Figures are medians of the processor time (user and system) in seconds. The goal is at most 0.6 of `layers`, where
each set of features is embedded by itself. Above that for real images, one pass would not be worth its code.

`choice` scouts all training images, and samples with several seeds. It reports for each sample which features it
chose, and the verdict on these with all images: `best` or `tie` is a right choice, `worse` a wrong one. If more than
one sample in five chose wrongly, the page should advise larger samples. `--page` writes the table of all images
between the marks of this name on the page, and the plot into its folder of images. Each line is JSON.
"""

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from reporting import read_processor, show

BACKBONES = (
    "mobilenet?alpha=0.25@-1,-7,-20",
    "mobilenet?alpha=0.75@-1,-7,-20",
    "mobilenetv2@-1,-7,-20",
    "scattering@order0,order1,scattering",
)

#: The largest ratio of processor times that makes one pass worth its code.
GOAL = 0.6


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("time")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--ways", nargs="+", default=("scout", "networks", "layers"))
    one.add_argument("--cached", action="store_true", help="all networks are in the cache already")
    one.set_defaults(run=run_time)
    other = commands.add_parser("choice")
    other.add_argument("--samples", nargs="+", type=float, default=[0.2])
    other.add_argument("--seeds", type=int, default=5)
    other.add_argument("--page", type=Path)
    other.add_argument("--name", default="photos")
    other.set_defaults(run=run_choice)
    for command in (one, other):
        command.add_argument("source", type=Path)
        command.add_argument("--backbones", nargs="+", default=BACKBONES)
        command.add_argument("--folder", type=Path, help="where `time` leaves the features of a scout for `choice`")
    options = parser.parse_args()
    show("machine", processor=read_processor(), source=options.source.name)
    options.run(options)


def call(*arguments, folder):
    """Run featx; return what it printed and its processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "featx", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return result.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def list_flags(backbones):
    """List the flags that name backbones for a scout."""
    return [word for name in backbones for word in ("--backbone", name)]


def list_ways(source, backbones):
    """List the commands of each way."""
    pairs = [name.split("@") for name in backbones]
    embed = ["embed", source, "--only", "split=train"]
    layers = {uri: layers.split(",") for uri, layers in pairs}
    return {
        "scout": [["scout", source, *list_flags(backbones)]],
        "networks": [
            [*embed, "-b", uri, *(word for layer in own for word in ("--layer", layer))] for uri, own in layers.items()
        ],
        "layers": [[*embed, "-b", uri, "--layer", layer] for uri, own in layers.items() for layer in own],
    }


def run_time(options):
    """Measure the processor time of each way."""
    ways = list_ways(options.source.resolve(), options.backbones)
    with tempfile.TemporaryDirectory() as folder:
        few = copy_few(options.source, Path(folder) / "few")
        for name, commands in list_ways(few, options.backbones).items():  # every network is in the cache after this
            for command in commands if name in options.ways and not options.cached else []:
                call(*command, folder=folder)
    times = {name: [] for name in options.ways}
    for number in range(options.rounds):
        for name in options.ways:
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(sum(call(*command, folder=folder)[1] for command in ways[name]))
                if name == "scout" and options.folder:
                    shutil.copytree(Path(folder) / "features", options.folder / "features", dirs_exist_ok=True)
            show("round", number=number, way=name, processor_seconds=times[name][-1], load=os.getloadavg()[0])
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in medians.keys() - {"scout"}:
        goal = {"at_most": GOAL} if name == "layers" else {}
        show(f"scout over {name}", ratio=medians["scout"] / medians[name], **goal)


def copy_few(source, folder):
    """Copy some images of two classes into train and val."""
    import featx

    manifest = featx.read_source(source)
    labels = sorted(manifest.count_classes())[:2]
    for label in labels:
        own = [item for item in manifest.items if item.label == label][:30]
        for number, item in enumerate(own):
            path = folder / ("val" if number % 5 == 0 else "train") / label / Path(item.id).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(manifest.reader.read(item.id))
    return folder


def run_choice(options):
    """Scout all training images and samples, and compare what they choose."""
    folder = options.folder or Path(tempfile.mkdtemp())
    whole = scout(options, folder, out=folder / "whole")
    verdicts = {name_row(row): row.verdict for row in whole.rows}
    not_worse = [name for name, verdict in verdicts.items() if verdict != "worse"]
    show("all", items=whole.n_items, chosen=name_row(whole.choice), not_worse=not_worse)
    for sample in options.samples:
        chosen = []
        for seed in range(options.seeds):
            part = scout(options, folder, sample=sample, seed=seed)
            chosen.append(name_row(part.choice))
            about = {"items": part.n_items, "chosen": chosen[-1], "verdict_on_all": verdicts[chosen[-1]]}
            about |= {"best": name_row(part.best), "verdict_of_best_on_all": verdicts[name_row(part.best)]}
            show("sample", sample=sample, seed=seed, not_worse=1 + len(part.ties), **about)
        right, same = sum(name in not_worse for name in chosen), chosen.count(name_row(whole.choice))
        show("right choices", sample=sample, right=right, same=same, of=len(chosen))
    if options.page:
        write_page(options, folder / "whole", whole)


def scout(options, folder, **settings):
    """Scout in this process, with features that an earlier scout has left in the folder."""
    import featx

    settings = {"features": folder / "features", "folder": None, **settings}
    return featx.scout(options.source.resolve(), options.backbones, options=featx.ScoutOptions(**settings))


def name_row(row):
    """Name the features of a row."""
    return f"{row.backbone} {row.layer}"


def write_page(options, folder, whole):
    """Write the table between the marks of a page, and copy the plot."""
    slug = options.name.replace(" ", "-")
    lines = ["| features | accuracy | 95 % | dim | images/s | points to the best | |", "|---|---|---|---|---|---|---|"]
    for row in whole.rows:
        gap = row.paired and [100 * share for share in (row.paired.difference, row.paired.low, row.paired.high)]
        verdict = f"**{row.verdict}, recommended**" if row is whole.choice else row.verdict
        cells = [f"`{name_row(row)}`", f"{row.accuracy:.3f}", f"{row.accuracy_low:.3f} to {row.accuracy_high:.3f}"]
        cells += [f"{row.dim:,}", f"{row.images_per_second:,.0f}"]
        cells += ["{:+.1f} ({:+.1f} to {:+.1f})".format(*gap) if gap else "", verdict]
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    text = options.page.read_text(encoding="utf-8")
    start, end = f"<!-- {slug} -->", f"<!-- end of {slug} -->"
    text = re.sub(f"{start}.*{end}", lambda _: f"{start}\n{table}\n{end}", text, flags=re.DOTALL)
    options.page.write_text(text, encoding="utf-8")
    shutil.copy(folder / "accuracy_against_cost.png", options.page.parent / "images" / f"scout-{slug}.png")


if __name__ == "__main__":
    main()
