"""The model card: what an exported model was trained and tested on, and what it is not for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.backbones.catalogue import describe_entry
from featx.bundle import Bundle
from featx.evaluation.text import METRIC_TITLES
from featx.exporting.parity import Parity, list_recipe_steps
from featx.references import MANIFEST, read_json
from featx.wording import escape_markdown, format_interval, format_markdown_table, format_value

#: Where the tested items are from, by the word in a bundle.
_ORIGINS = {"source": "that of the source", "cross-validation": "cross-validation over all items"}

_LIMITS = (
    "- It gives one of its classes for every picture, also for pictures of something else.",
    "- The numbers hold for pictures like those of the test. Other cameras, places or times need a test of their own.",
    "- The probabilities are as reliable as the calibration error says, on such pictures.",
)

#: Classes in the table of classes.
_MOST_CLASSES = 100


def write_model_card(bundle: Bundle, about: Mapping[str, Any], parity: Parity) -> str:
    """Write the model card of an export, as Markdown (after Mitchell et al. 2019, "Model Cards for Model Reporting").

    Args:
        bundle: The bundle that was exported.
        about: What the model says of itself.
        parity: How it compares with featx.
    """
    spec, record = bundle.embed_spec, read_json(bundle.path, MANIFEST)["record"]
    name = str((record.get("backbone") or {}).get("uri", spec.backbone.uri))
    licence = describe_entry(name.partition("?")[0]).licence or "not known to featx; ask whoever published them"
    store, split, test = record.get("store", {}), record.get("split", {}), bundle.metrics["test"]
    tuned = " and fine-tuned with the head" if "backbone" in record else ", frozen"
    source = escape_markdown(Path(str(store.get("source", "an unknown source"))).name)
    sections = {
        "Model": (
            f"- From the pixels of an image to the probabilities of {len(bundle.classes)} classes, for {about['to']}.",
            f"- Network: {escape_markdown(name)}{tuned}.",
            f"- Head: {escape_markdown(bundle.head_spec.name)}; calibration: {bundle.head_spec.calibration or 'none'}.",
            f"- Licence of the network's weights: {licence}. The data may have a licence of their own.",
            f"- Made with featx {about['versions']['featx']} from the bundle {escape_markdown(about['bundle'])}.",
        ),
        "Input": (f"- {list_recipe_steps(spec.image)}.", f"- {about['sizes']}."),
        "Data": (
            f"- {store.get('items', 'An unknown number of')} items of {source}.",
            f"- Trained on {bundle.metrics['train_items']} items; tested on {test['items']}.",
            f"- Split: {_ORIGINS.get(str(split.get('origin')), 'at random, by class')}.",
        ),
        "Numbers": ("On the tested items, with 95 % intervals:", "", _tabulate_metrics(test), _tabulate_classes(test)),
        "Parity": (*(f"- {line}." for line in parity.describe()), *_list_changed(parity)),
        "Limits": _LIMITS,
    }
    title = f"# Model card: {escape_markdown(about['bundle'])}"
    parts = [f"## {name}\n\n" + "\n".join(lines).rstrip() for name, lines in sections.items()]
    return "\n\n".join([title, *parts]) + "\n"


def _tabulate_metrics(test: Mapping[str, Any]) -> str:
    rows = [
        (title, format_interval((test.get(name), test.get(f"{name}_low"), test.get(f"{name}_high"))))
        for name, title in METRIC_TITLES.items()
    ]
    return format_markdown_table(("metric", "value"), rows, n_text=1)


def _tabulate_classes(test: Mapping[str, Any]) -> str:
    rows = [
        (
            row["name"],
            *(format_value(row[name]) for name in ("precision", "recall", "f1")),
            str(row["support"]),
        )
        for row in test["per_class"][:_MOST_CLASSES]
    ]
    return format_markdown_table(("class", "precision", "recall", "F1", "items"), rows, n_text=1)


def _list_changed(parity: Parity) -> list[str]:
    found = [one for one in (parity.pixels, parity.whole) if one and one.changed]
    return [f"- Another label: {escape_markdown(', '.join(one.changed))}." for one in found]
