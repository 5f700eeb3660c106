"""A comparison as text: a table, what it says in words, and files."""

import csv
import datetime as dt
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from featx.evaluation.drawing import NAME_CELLS
from featx.heads import find_head
from featx.specs import HeadSpec
from featx.store.durability import say_failures
from featx.training.standings import FINE_TUNED, Comparison, Standing
from featx.training.tables import LEFT, cut_middle, tabulate

# A logarithmic axis has no 0.
_LEAST_SECONDS = 1e-3


def describe_choice(head: HeadSpec, asked: HeadSpec | None = None) -> str:
    """Describe the parameters of a head that are chosen by folds or by the user, and its scaling."""
    open_params = {*find_head(head.name).grid, *(asked or head).params}
    parts = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in head.params.items()
        if name in open_params
    ]
    return " ".join([*parts, *([head.scaling] if head.scaling not in {None, "none"} else [])])


def describe_comparison(comparison: Comparison) -> list[str]:
    """Say what the table shows, and what it does not, a sentence each."""
    best, ties = comparison.best, comparison.ties
    of = name_standings(comparison)
    items = f"{comparison.n_test:,} {comparison.test_name} images"
    others = sum(standing.test is not None for standing in comparison.standings) - 1
    learnt = "" if best.run else f", and learnt from {comparison.n_train:,} images"
    lines = [f"{of(best)} is best by validation ({comparison.validation_name}){learnt}; the test chose nothing"]
    if ties:
        which = "the other one" if others == 1 else f"{len(ties)} of {others} others"
        lines.append(f"{which} cannot be told from the best by these {items}: {', '.join(map(of, ties))}")
    elif others:
        which = "the other one" if others == 1 else f"each of the {others} others"
        lines.append(f"{which} can be told from the best by these {items}")
    better = [of(standing) for standing in comparison.standings if standing.verdict == "better"]
    if better:
        lines.append(
            f"{', '.join(better)} did better on the test than the best by validation; new images must tell whether to "
            f"prefer it, as these have told"
        )
    lines += comparison.verdict
    lines += [f"failed: {of(standing)}: {standing.error}" for standing in comparison.failed]
    return lines


def name_standings(comparison: Comparison) -> Callable[[Standing], str]:
    """Give what names a standing: with its store where heads are on several, or a finished run is on another."""
    stores = {standing.store for standing in comparison.standings if standing.run is None}

    def name(standing: Standing) -> str:
        plain = stores == {standing.store} or (not stores and len(comparison.standings) == 1)
        return standing.title if plain else f"{standing.title} on {standing.store}"

    return name


def list_notes(comparison: Comparison, standings: Sequence[Standing]) -> list[str]:
    """List the notes on the items, and those of some standings; one note of many heads is told once."""
    of = name_standings(comparison)
    told = dict[str, list[str]]()
    for standing in standings:
        for note in standing.notes:
            told.setdefault(note.removeprefix(f"{standing.title} "), []).append(of(standing))
    return [*comparison.notes, *(f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in told.items())]


def name_folder(parent: Path) -> Path:
    """Name a new folder for a comparison: `<date>-compare`, or with a number behind if that exists."""
    stem = f"{dt.datetime.now(tz=dt.UTC).date()}-compare"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def write_comparison(comparison: Comparison, folder: Path) -> Comparison:
    """Write the table as Markdown, CSV and JSON, and the plot of accuracy against cost.

    Returns:
        The comparison, with the folder.

    Raises:
        StoreError: If the folder cannot be written to.
    """
    from featx.evaluation.charts import plot_costs

    written = replace(comparison, folder=folder)
    able = [standing for standing in comparison.standings if standing.test is not None]
    # Far below all others, the dummy would press them into one line.
    able = [standing for standing in able if standing.head.name != "dummy"] or able
    tests = [standing.test for standing in able if standing.test is not None]
    with say_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comparison.md").write_text(to_markdown(comparison), encoding="utf-8")
        _write_csv(folder / "comparison.csv", comparison)
        text = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
        plot_costs(
            _name_points(able),
            [_add_seconds(standing) for standing in able],
            [test.accuracy for test in tests],
            [test.accuracy_low for test in tests],
            [test.accuracy_high for test in tests],
            folder / "accuracy_against_cost.png",
            chosen=able.index(comparison.best) if comparison.best in able else None,
            tuned=[standing.kind == FINE_TUNED for standing in able],
        )
    return written


def _add_seconds(standing: Standing) -> float:
    """Add embedding to fitting, where it is known and not a part of it."""
    embedding = 0.0 if standing.kind == FINE_TUNED else standing.embed_seconds
    return max((standing.fit_seconds or 0.0) + (embedding or 0.0), _LEAST_SECONDS)


def _name_points(standings: Sequence[Standing]) -> list[str]:
    """Name the points of a plot, which has little room: with the store only where there is doubt, and that cut."""
    titles = [standing.title for standing in standings]
    return [
        title
        if titles.count(title) == 1
        else f"{title} on {cut_middle(one.store, max(8, NAME_CELLS - 4 - len(title)))}"
        for one, title in zip(standings, titles, strict=True)
    ]


def to_markdown(comparison: Comparison) -> str:
    """Make a page of the table, what it shows, and all notes."""
    header, rows = tabulate(comparison)
    marks = [":---" if name in LEFT else "---:" for name in header]
    lines = ["# Comparison", "", *(f"- {line}" for line in describe_comparison(comparison)), ""]
    lines += [_join(header), _join(marks), *(_join(row) for row in rows), ""]
    notes = list_notes(comparison, comparison.standings)
    lines += [*(f"- note: {note}" for note in notes), ""] if notes else []
    counts = sorted({standing.threads for standing in comparison.standings if standing.threads})
    threads = f"{' or '.join(map(str, counts))} thread{'s' if max(counts, default=0) > 1 else ''}"
    lines.append(_EXPLANATION.format(threads=threads))
    lines += [_RUNS] if any(standing.run for standing in comparison.standings) else []
    return "\n".join(lines) + "\n"


_EXPLANATION = """\
`valid.` is the accuracy on items held out of the training items, with the choice of parameters repeated inside; it
alone orders the table. `95 %` is the interval of the test accuracy. `to the best` is the difference in test accuracy
on the same images, with its interval; `p` its p-value (McNemar's test with mid-p; whole groups, where there are any),
adjusted for the number of differences (Holm). `bal.` is the mean accuracy of the classes. A `tie` is a
difference that this test cannot show, not the proof that there is none. Seconds are those of tuning and fitting, with
{threads}, and of predicting all test images; `embed s` those of embedding, which all heads of a store share. `memory`
is the most that the fitting process held, libraries and the pages of the store that it had loaded included. `params`
counts what was learnt: coefficients and intercepts, or the weights of networks."""

_RUNS = """\

A row of a finished run has the numbers of its bundle, and is tested here by its own predictions of the same images.
If it was validated on other images than the heads, it is listed below them, whatever its validation says.
Where it is fine-tuned, its `fit s` are of everything, embedding included, as if nothing had been cached; those of a
head on cached features leave embedding out."""


def _join(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _write_csv(path: Path, comparison: Comparison) -> None:
    rows = [
        {
            name: json.dumps(value) if isinstance(value, dict | list) else value
            for name, value in standing.to_dict().items()
        }
        for standing in comparison.standings
    ]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
