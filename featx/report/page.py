"""The report: one HTML file that holds what it shows, and opens from disk without a network."""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featx.errors import FeatxError, UsageError
from featx.evaluation import Evaluation
from featx.evaluation.reliability import measure_reliability_for_plot
from featx.files import say_failures, write_atomically
from featx.items import read_source
from featx.items.manifest import Reader
from featx.options import EMBED_DEFAULTS, EmbedOptions
from featx.report.charts import bundle_javascript, make_confusion, make_curve, make_map, make_reliability
from featx.report.comparisons import format_comparison
from featx.report.contact_sheets import find_pictures, refuse_source
from featx.report.curves import Curves, measure_curves
from featx.report.findings import Audited, format_findings, read_audit
from featx.report.items import Items, find_wrong, list_items, read_pictures
from featx.report.maps import project_items
from featx.report.sections import format_classes, format_facts, format_metrics
from featx.report.subjects import Subject, find_subject
from featx.results import Predictions, read_predictions
from featx.wording import escape_html, format_interval, format_plural, shorten_name, to_printable, to_text

#: Items that get a thumbnail, by default.
MOST_PICTURES = 5_000

#: With more classes, the matrix first shows those that are confused most.
_MOST_SHOWN = 30

#: The headings to which the top of the page links: their ids and words.
_SECTION = re.compile(r"<h2 id=\"?([\w-]+)\"?>([^<]*)</h2>")

#: Columns of a name in a chart.
_NAME_CELLS = 24


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written; a notebook shows it.

    Attributes:
        path: The file.
        n_items: Number of items in it.
        n_pictures: Number of those that have a thumbnail.
        notes: What could not be shown, and why.
    """

    path: Path
    n_items: int
    n_pictures: int
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """Return the page in a frame."""
        text = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" title="featx report" style="width: 100%; height: 50rem; border: 0"></iframe>'


@dataclass(frozen=True, slots=True)
class _Content:
    """What a page shows and where it goes; `places` are those on the map, and `how` says what they are."""

    subject: Subject
    items: Items
    predictions: Predictions | None
    places: NDArray[np.float32] | None
    how: str
    pictures: Sequence[str]
    audited: Audited
    notes: Sequence[str]
    path: Path


def write_report(
    what: Any = None,  # noqa: ANN401 - a result, a store, or a path
    out: str | os.PathLike[str] | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    projection: str = "pca",
    most_pictures: int = MOST_PICTURES,
    seed: int = 0,
    options: EmbedOptions = EMBED_DEFAULTS,
) -> Report:
    """Write a report of a bundle, a comparison or a store: one HTML file that opens without a network.

    Args:
        what: A run, a comparison, a store, or a reference to one; None for the newest bundle.
        out: The file; None for `report.html` in the bundle or comparison, and `reports/STORE.html` for a store.
        source: Where the pictures are now; None for where they were when they were embedded.
        projection: How the map is made: `pca` or `umap`.
        most_pictures: Items that get a thumbnail; mistakes come first.
        seed: Seed of samples and of UMAP.
        options: Threads and reporter.

    Returns:
        The report.

    Raises:
        MissingExtraError: If Altair is not installed, or UMAP is asked for and is not.
        FeatxError: If there is no such bundle, comparison or store, `source` has none of the pictures, or the file
            cannot be written.
    """
    if most_pictures < 0:
        msg = f"most_pictures is {most_pictures}; it must be at least 0"
        raise UsageError(msg)
    subject = find_subject(what)
    notes = list(subject.notes)
    predictions = None if subject.bundle is None else read_predictions(subject.bundle.path, subject.bundle.classes)
    items = list_items(subject.store, predictions, seed)
    places, how = _place(subject, items, projection, seed, options)
    notes += _note_sample(items, predictions)
    reader = _find_reader(subject, source, notes)
    chosen = _choose_pictures(items, predictions, most_pictures, seed)
    options.reporter.begin("reading pictures")
    pictures, n_missing = read_pictures(reader, items.ids, chosen, options)
    if source and n_missing == len(chosen) > 0:
        refuse_source(source, n_missing, items.ids[chosen[0]])
    if n_missing:
        notes.append(f"{format_plural(n_missing, 'picture')} could not be read")
    if reader is not None and len(chosen) < len(items):
        notes.append(f"{len(chosen):,} of {len(items):,} items have a picture; --pictures changes that")
    audited = read_audit(subject.store, notes)
    path = Path(out) if out is not None else subject.default_path
    text = _make_page(_Content(subject, items, predictions, places, how, pictures, audited, notes, path))
    with say_failures(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return Report(path, len(items), len(chosen) - n_missing if reader else 0, tuple(notes))


def _place(
    subject: Subject, items: Items, method: str, seed: int, options: EmbedOptions
) -> tuple[NDArray[np.float32] | None, str]:
    """Place the items on the map, `(n_items, 2)` with NaN for those that are not in the store; and say by what."""
    store = subject.store
    stored = np.flatnonzero(items.rows >= 0)
    if store is None or not len(stored):
        return None, ""
    options.reporter.begin("projecting features")
    places = np.full((len(items), 2), np.nan, np.float32)
    places[stored], how = project_items(store, items.rows[stored], method, seed)
    return places, how


def _note_sample(items: Items, predictions: Predictions | None) -> list[str]:
    """Say which items are here if there are too many for all."""
    if not items.sampled_of:
        return []
    shown, how = f"{len(items):,} of {items.sampled_of:,} items", "chosen at random"
    if predictions is not None:
        is_wrong = find_wrong(predictions)
        n_wrong, n_shown = int(is_wrong.sum()), int(is_wrong[items.tested[items.tested >= 0]].sum())
        some = "all" if n_shown == n_wrong else f"{n_shown:,} of"
        how = f"{some} {format_plural(n_wrong, 'mistake')}, and others at random"
    return [f"the map and the pictures show {shown}: {how}; the numbers are of all"]


def _find_reader(subject: Subject, source: str | os.PathLike[str] | None, notes: list[str]) -> Reader | None:
    """Find what reads the pictures; None, with a note, if they are not there any more."""
    try:
        if subject.store is not None:
            return find_pictures(subject.store, source)
        where = source or subject.source
        return read_source(where).reader if where else None
    except FeatxError as error:
        if source:
            raise
        notes.append(f"no pictures are shown: {error}; name where they are now: featx report {subject.name} SOURCE")
        return None


def _choose_pictures(items: Items, predictions: Predictions | None, most: int, seed: int) -> list[int]:
    """Choose the items that get a thumbnail: mistakes first, then what was tested, then others at random."""
    shuffled = np.random.default_rng(seed).permutation(len(items))
    rank = np.full(len(items), 2)
    if predictions is not None:
        rank[items.tested >= 0] = 1
        tested = np.flatnonzero(items.tested >= 0)
        rank[tested[find_wrong(predictions)[items.tested[tested]]]] = 0
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return sorted(order[:most].tolist())


def _make_page(content: _Content) -> str:
    subject, items, predictions, bundle = content.subject, content.items, content.predictions, content.subject.bundle
    classes = list(bundle.classes) if bundle else sorted({label for label in items.labels if label})
    data, curves = _make_data(items, predictions, classes, content.places, content.pictures), None
    data["charts"] = {"map": make_map()} if content.places is not None else {}
    test = validation = None
    if bundle is not None and predictions is not None:
        test, validation = (Evaluation.from_dict(bundle.metrics[name]) for name in ("test", "validation"))
        curves = _add_results(data, predictions, classes, test)
    findings = format_findings(subject.store, items, content.audited, data["lists"])
    parts = [
        "<h2 id=what>What was done</h2>",
        format_facts(subject),
        _format_notes([*subject.remarks, *content.notes]),
        format_comparison(subject.comparison, subject.folder, content.path) if subject.folder else "",
    ]
    if test is not None and validation is not None:
        parts += ["<h2 id=numbers>Numbers</h2>", format_metrics(test, validation)]
    if len(items):
        parts.append(_format_look(data, len(classes), content.how))
    if test is not None and curves is not None:
        parts += ["<h2 id=classes>Classes</h2>", format_classes(test, curves)]
        parts.append(_format_curves(classes, curves))
    parts += ["<h2 id=data-found>Data</h2>", findings] if findings else []
    found = f": accuracy {format_interval(test.get_interval('accuracy'))}" if test and not subject.comparison else ""
    return _wrap(subject.title, found, "\n".join(filter(None, parts)), data)


def _make_data(
    items: Items,
    predictions: Predictions | None,
    classes: Sequence[str],
    places: NDArray[np.float32] | None,
    pictures: Sequence[str],
) -> dict[str, Any]:
    """Make what the page reads: columns of the items, with classes and splits by position."""
    number = {to_text(name): at for at, name in enumerate(classes)}
    splits = [name for name in ("train", "val", "test") if name in set(items.splits)]
    columns: dict[str, Any] = {
        "id": [to_printable(name) for name in items.ids],
        "label": [number.get(to_text(label), -1) for label in items.labels],
        "split": [splits.index(name) if name in splits else -1 for name in items.splits],
        "picture": list(pictures),
    }
    numbers = np.zeros((3, len(items)))
    predicted = np.full(len(items), -1)
    if predictions is not None and len(predictions.ids):
        at = np.flatnonzero(items.tested >= 0)
        shares, rows = predictions.probabilities[items.tested[at]], np.arange(len(at))
        predicted[at] = [number[predictions.predicted[row]] for row in items.tested[at]]
        own = np.array([number.get(predictions.labels[row], -1) for row in items.tested[at]])
        ordered = np.sort(shares, axis=1)
        second = ordered[:, -2] if len(classes) > 1 else 0.0
        numbers[:, at] = [shares[rows, predicted[at]], np.where(own < 0, 0, shares[rows, own]), ordered[:, -1] - second]
    names = ("probability", "own", "margin")
    columns |= {name: [round(value, 4) for value in row] for name, row in zip(names, numbers.tolist(), strict=True)}
    columns["predicted"] = predicted.tolist()
    if places is not None:
        low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
        unit = (places - low) / np.where(high > low, high - low, 1)
        columns |= {name: _round(unit[:, axis]) for axis, name in enumerate("xy")}
    shown = [to_printable(name) for name in classes]
    return {"items": columns, "classes": shown, "splits": splits, "lists": [], "tested": predictions is not None}


def _round(values: NDArray[Any]) -> list[float | None]:
    return [None if not np.isfinite(value) else round(value, 4) for value in values.tolist()]


def _add_results(data: dict[str, Any], predictions: Predictions, classes: Sequence[str], test: Evaluation) -> Curves:
    """Add the charts of the results and their tables."""
    number = {name: at for at, name in enumerate(predictions.classes)}
    targets = np.array([number.get(label, -1) for label in predictions.labels], np.intp)
    support = {row: one.support for row, one in enumerate(test.per_class)}
    data["cells"] = [
        {"t": t, "p": p, "n": n, "share": round(n / max(1, support[t]), 4)} for t, p, n in test.cells.tolist()
    ]
    names = [shorten_name(name, _NAME_CELLS) for name in classes]
    data["shown"] = shown = _find_confused(test)
    data["charts"]["confusion"] = make_confusion(shown, names)
    if len(shown) < len(classes):
        data["charts"]["confusion_all"] = make_confusion(range(len(classes)), names)
    curves = measure_curves(predictions.probabilities, targets)
    known = targets >= 0
    if known.any() and len(classes) > 1:
        reliability = measure_reliability_for_plot(predictions.probabilities[known], targets[known])
        data["charts"]["reliability"] = make_reliability(reliability)
    if np.isfinite(curves.roc_aucs).any():
        data["charts"]["roc"] = make_curve("1 - specificity", "sensitivity", is_roc=True)
        data["charts"]["pr"] = make_curve("recall", "precision", is_roc=False)
        defined = np.isfinite(curves.roc_aucs)
        tables = {"sensitivity": curves.sensitivities, "threshold": curves.thresholds, "precision": curves.precisions}
        data["curves"] = {
            name: [_round(row) if there else None for row, there in zip(table, defined, strict=True)]
            for name, table in tables.items()
        } | {"support": curves.supports.tolist()}
    return curves


def _find_confused(test: Evaluation) -> list[int]:
    """Find the classes that are confused most, at most 30, in their order; all if there are no more."""
    if len(test.classes) <= _MOST_SHOWN:
        return list(range(len(test.classes)))
    wrong = test.cells[test.cells[:, 0] != test.cells[:, 1]]
    pairs = wrong[np.argsort(-wrong[:, 2], kind="stable"), :2].ravel().tolist()
    rest = range(len(test.classes))  # if too few are confused
    return sorted(list(dict.fromkeys([*pairs, *rest]))[:_MOST_SHOWN])


def _format_notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape_html(note)}</li>" for note in dict.fromkeys(notes))
    return f'<ul class="note">{lines}</ul>' if lines else ""


def _format_look(data: Mapping[str, Any], n_classes: int, how: str) -> str:
    """Format the place of the matrix, the map and the grid, and their controls; `how` is how the map was made."""
    charts = data["charts"]
    every = '<label><input type="checkbox" id="all-classes"> show all classes</label>'
    which = f'<p class="note">The {_MOST_SHOWN} of {n_classes:,} classes that are confused most. {every}</p>'
    matrix = (
        f'<div><h3>Confusion matrix</h3>{which if "confusion_all" in charts else ""}<div class="chart" '
        'id="confusion"></div><p class="note">A colour is the share of the true class. <span class="hint">Click a cell '
        "to see its pictures.</span></p></div>"
    )
    around = (
        '<div><h3>Map</h3><div class="controls"><label>colour by <select id="mode"></select></label></div>'
        '<div id="around-map"><div class="chart" id="map"></div><svg id="lasso" aria-hidden="true"><polygon/></svg>'
        f'</div><div id="legend"></div><p class="note">{how}: items that look alike lie near each other. <span '
        'class="hint">Draw a line around points to see their pictures; Escape or a double click shows all items again.'
        "</span></p></div>"
    )
    shown = [part for name, part in (("confusion", matrix), ("map", around)) if name in charts]
    return (
        f'<h2 id="look">Pictures</h2><div class="pair">{"".join(shown)}</div><div class="controls">'
        '<label>true <select id="true"></select></label><label>predicted <select id="predicted"></select></label>'
        '<label>order <select id="order"></select></label></div><p id="status" aria-live="polite"></p>'
        '<div id="grid"></div><p><button class="more" id="more" hidden></button></p>'
    )


def _format_curves(classes: Sequence[str], curves: Curves) -> str:
    """Format the place of the curves, with the worst class first."""
    able = [at for at in np.argsort(curves.roc_aucs, kind="stable").tolist() if np.isfinite(curves.roc_aucs[at])]
    if not able:
        return ""
    options = "".join(
        f'<option value="{at}">{escape_html(classes[at])} ({curves.roc_aucs[at]:.3f})</option>' for at in able
    )
    return (
        '<h2 id="curves">Curves and reliability</h2><div class="controls"><label>class against the others (ROC-AUC) '
        f'<select id="curve-class">{options}</select></label><label>specificity at least <input type="range" '
        'id="specificity" min="0.5" max="1" step="0.01" value="0.95"></label></div>'
        '<p id="operating" aria-live="polite"></p><div class="pair"><div><h3>ROC</h3><div class="chart" id="roc"></div>'
        '</div><div><h3>Precision and recall</h3><div class="chart" id="pr"></div></div><div><h3>Reliability</h3><div '
        'class="chart" id="reliability"></div></div></div>'
    )


def _wrap(title: str, found: str, body: str, data: Mapping[str, Any]) -> str:
    """Wrap the parts in a page whose only scripts are its own, by their hashes, and which may load nothing.

    Args:
        title: The title.
        found: What the heading adds to it.
        body: HTML, whose sections get links at the top.
        data: What the script reads.
    """
    links = "".join(f'<a href="#{name}">{words}</a>' for name, words in _SECTION.findall(body))
    folder = files("featx.report")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    scripts = [bundle_javascript(), script] if data["items"]["id"] else []
    digests = " ".join(f"'sha256-{_digest(one)}'" for one in scripts) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {digests}"
    # Nothing in a name can end the element.
    content = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    elements = "".join(f'<script type="module">{one}</script>' for one in scripts)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape_html(title)}</title><style>{style}</style></head><body><h1>{escape_html(title + found)}</h1>"
        f"<nav>{links}</nav><noscript><p>Charts and pictures need JavaScript.</p></noscript>{body}"
        '<div id="tip" role="tooltip" hidden></div>'
        f'<script type="application/json" id="data">{content}</script>{elements}</body></html>\n'
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
