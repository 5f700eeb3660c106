"""The page of a bundle, `index.html`: what the bundle is, its numbers, its plots and its commands, for people.

A comparison has one, too, of the same parts. The page needs no network, no script and no other program than a browser.
The folder of a bundle gets its name after the page is written, and may be renamed, so links and commands are relative
to the folder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from featx.evaluation import Evaluation
from featx.evaluation.text import list_metrics
from featx.records import describe_split, format_fit
from featx.specs import IMPORTED
from featx.wording import escape_html, format_html_table, format_interval, format_value, join_first

#: The name of the page.
PAGE = "index.html"

# Plots by their stem, in the order of the page. The text is read aloud in place of the picture.
_PLOTS = {
    "confusion_matrix": "Confusion matrix: tested items by true and predicted class",
    "reliability": "Reliability: how often predictions of a given confidence are right",
    "path": "Tuning: accuracy on held-out folds by the tuned parameter",
    "accuracy_against_cost": "Test accuracy against the time of embedding and fitting",
    "learning_curve": "Learning curve: accuracy by the number of training items",
    "few_shots": "Few shots: accuracy by the number of training items of each class",
    "curves": "Training: loss, accuracy and ROC-AUC by epoch",
    "augmentation": "Training images as the network sees them",
}

# A table of more classes is closed until it is clicked.
_MOST_OPEN = 30

_MOST_NAMED = 12

_MODELS = {
    "bundle": "the specs, the split, how the head was chosen, and the checksum of each file",
    "head": "the fitted head",
    "golden": "synthetic pictures and their features, which show whether another machine computes the same",
    "network": "the network for OpenVINO; `featx bundle` adds or removes it",
    "backbone": "the user's own network or weights",
}

_STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:#8881}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin-top:2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;overflow-wrap:normal}
.wide table{font-size:.875rem}
th,td{padding:.2rem .5rem;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
td{white-space:nowrap}figure{margin:1rem 0}figcaption{margin-bottom:.3rem}
img{max-width:100%;height:auto;max-height:44rem;background:#fff}
pre{background:var(--soft);padding:.6rem;white-space:pre-wrap}dt{font-weight:600}
""".strip()


def make_bundle_page(
    about: Mapping[str, Any], metrics: Mapping[str, Any], test: Evaluation, files: Sequence[str]
) -> str:
    """Make the page of a bundle.

    Args:
        about: The content of `bundle.json`, without its files.
        metrics: The content of `metrics.json`.
        test: The final evaluation.
        files: The names of the files of the bundle so far.
    """
    name = escape_html(str(metrics.get("test_name", "test")))
    backbones = [one["embed"]["backbone"]["uri"] for one in about.get("parts", [about])]
    title = f"{about['head']['name']} on {', '.join(map(str, backbones))}"
    sections = [
        _list_facts(about, metrics),
        f"<h2>Numbers</h2><p>{test.n_items:,} items ({name}); [95 % interval].</p>{_tabulate(test, metrics)}",
        show_plots(files),
        _list_classes(test),
        _list_files(files),
        _list_commands(about),
    ]
    return wrap_page(title, f"accuracy {format_interval(test.get_interval('accuracy'))}", sections)


def wrap_page(title: str, found: str, sections: Sequence[str]) -> str:
    """Make a page that needs nothing else.

    Args:
        title: Its title.
        found: What its heading adds to the title.
        sections: HTML.
    """
    title = escape_html(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}: {escape_html(found)}</h1>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _list_facts(about: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    record, classes = about["record"], about["classes"]
    stores = record.get("stores") or [record["store"]]
    facts = {
        "what it is": _describe_kind(about),
        "classes": f"{len(classes):,}: {join_first(classes, _MOST_NAMED)}",
        "trained on": f"{metrics['train_items']:,} items",
        "data": ", ".join(str(one["path"]) for one in stores),
        "source": str(record["store"]["source"]),
        "split": describe_split(record["split"]),
        "parameters": ", ".join(f"{name}={value}" for name, value in about["head"]["params"].items()),
        "made with": ", ".join(f"{name} {version}" for name, version in record["created_with"].items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape_html(text)}</dd>" for name, text in facts.items() if text)
    notes = "".join(f"<li>{escape_html(note)}</li>" for note in metrics.get("notes", ()))
    return f"<dl>{rows}</dl>" + (f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "")


def _describe_kind(about: Mapping[str, Any]) -> str:
    imported = [str(one["embed"]["backbone"]["uri"]) for one in about.get("parts", [about])]
    if tools := [uri.removeprefix(IMPORTED) for uri in imported if uri.startswith(IMPORTED)]:
        return f"a head on features imported from {tools[0]}, whose network featx does not know: it predicts no images"
    return "a featx bundle: everything that turns images into labels"


def _tabulate(test: Evaluation, metrics: Mapping[str, Any]) -> str:
    rows = list_metrics(test, Evaluation.from_dict(metrics["validation"]))
    return f'<div class="wide">{format_html_table(["", "test", "validation"], rows, n_text=1)}</div>'


def show_plots(files: Sequence[str]) -> str:
    """Show the plots among some files, with links to the same in other formats."""
    there = [(f"{stem}.png", words) for stem, words in _PLOTS.items() if f"{stem}.png" in files]
    figures = []
    for name, words in there:
        others = [other for other in (f"{name[:-4]}.svg", f"{name[:-4]}.csv") if other in files]
        links = ", ".join(link_file(other) for other in others)
        caption = f"<figcaption>{words}{f' ({links})' if links else ''}</figcaption>"
        figures.append(f'<figure>{caption}<img src="{name}" alt="{words}"></figure>')
    return f"<h2>Plots</h2>{''.join(figures)}"


def _list_classes(test: Evaluation) -> str:
    names = ("precision", "recall", "f1", "roc_auc", "average_precision")
    header = ["class", "items", "precision", "recall", "F1", "ROC-AUC", "average precision"]
    rows = [
        [one.name, f"{one.support:,}", *(format_value(getattr(one, name)) for name in names)] for one in test.per_class
    ]
    opened = " open" if len(rows) <= _MOST_OPEN else ""
    table = f'<div class="wide">{format_html_table(header, rows, n_text=1)}</div>'
    return f"<h2>Classes</h2><details{opened}><summary>{len(rows):,} classes</summary>{table}</details>"


def _list_files(files: Sequence[str]) -> str:
    """List the tables with links. Files of the model have none, since `featx bundle` removes and adds some."""
    tables = {
        "predictions.csv": "the prediction of each tested item",
        "items.csv": "the sha256 of each item, and whether it was trained on",
        "metrics.json": "all numbers of this page, and more",
    }
    rows = [f"<dt>{link_file(name)}</dt><dd>{words}</dd>" for name, words in tables.items() if name in files]
    for stem, words in _MODELS.items():
        own = [name for name in ("bundle.json", *files) if name.split(".", 1)[0].split("-")[0] == stem]
        text = escape_html(words)
        rows += [f"<dt>{escape_html(', '.join(sorted(own)))}</dt><dd>{text}</dd>"] if own else []
    return f"<h2>Files</h2><dl>{''.join(rows)}</dl>"


def _list_commands(about: Mapping[str, Any]) -> str:
    inside = "featx errors .\nfeatx info ."
    if not any(one["embed"]["backbone"]["uri"].startswith(IMPORTED) for one in about.get("parts", [about])):
        inside = f"featx predict . IMAGE\nfeatx evaluate . IMAGES\n{inside}"
    text = f"<h2>Commands</h2><p>In this folder:</p><pre>{inside}</pre>"
    if "finetune" not in about["record"]:  # which has more options than are recorded
        again = format_fit(about["record"], about["head"]["name"], about["head"]["params"])
        text += (
            f"<p>Fit the same head on the same split again, in the folder in which it was fitted. Options that are not "
            f"named here have their defaults; bundle.json has what was used.</p><pre>{escape_html(again)}</pre>"
        )
    return text


def link_file(name: str) -> str:
    """Link a file whose name needs no escape."""
    return f'<a href="{name}">{name}</a>'
