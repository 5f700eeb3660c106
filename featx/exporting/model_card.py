"""The model card: what an exported model was trained and tested on, and what it is not for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featx.backbones.catalogue import describe_entry
from featx.bundle import Bundle
from featx.evaluation.metrics import Evaluation
from featx.evaluation.text import list_metrics
from featx.exporting.parity import Parity, list_recipe_steps
from featx.records import cut_text, take_part
from featx.references import MANIFEST, read_json
from featx.wording import escape_markdown, format_markdown_table, format_value

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
    spec, record = bundle.embed_spec, take_part(read_json(bundle.path, MANIFEST), "record")
    trained = take_part(record, "backbone")
    name = str(trained.get("uri", spec.backbone.uri))
    licence = describe_entry(name.partition("?")[0]).licence or "not known to featx; ask whoever published them"
    store, split = take_part(record, "store"), take_part(record, "split")
    test = Evaluation.from_dict(take_part(bundle.metrics, "test"))
    tuned = " and fine-tuned with the head" if trained else ", frozen"
    source = _quote(Path(str(store.get("source", "an unknown source"))).name)
    metrics = format_markdown_table(("metric", "value"), list_metrics(test), n_text=1)
    sections = {
        "Model": (
            f"- From the pixels of an image to the probabilities of {len(bundle.classes)} classes, for {about['to']}.",
            f"- Network: {_quote(name)}{tuned}.",
            f"- Head: {escape_markdown(bundle.head_spec.name)}; calibration: {bundle.head_spec.calibration or 'none'}.",
            f"- Licence of the network's weights: {licence}. The data may have a licence of their own.",
            f"- Made with featx {about['versions']['featx']} from the bundle {escape_markdown(about['bundle'])}.",
        ),
        "Input": (f"- {list_recipe_steps(spec.image)}.", f"- {about['sizes']}."),
        "Data": (
            f"- {_quote(store.get('items', 'An unknown number of'))} items of {source}.",
            f"- Trained on {_quote(bundle.metrics.get('train_items', '?'))} items; tested on {test.n_items}.",
            f"- Split: {_ORIGINS.get(str(split.get('origin')), 'at random, by class')}.",
        ),
        "Numbers": ("On the tested items, with 95 % intervals:", "", metrics, _tabulate_classes(test)),
        "Parity": (*(f"- {line}." for line in parity.describe()), *_list_changed(parity)),
        "Limits": _LIMITS,
    }
    title = f"# Model card: {escape_markdown(about['bundle'])}"
    parts = [f"## {name}\n\n" + "\n".join(lines).rstrip() for name, lines in sections.items()]
    return "\n\n".join([title, *parts]) + "\n"


def _quote(value: object) -> str:
    """Quote what a bundle says, which is not trusted, as Markdown of one line."""
    return escape_markdown(cut_text(value))


def _tabulate_classes(test: Evaluation) -> str:
    rows = [
        (row.name, *(format_value(value) for value in (row.precision, row.recall, row.f1)), str(row.support))
        for row in test.per_class[:_MOST_CLASSES]
    ]
    return format_markdown_table(("class", "precision", "recall", "F1", "items"), rows, n_text=1)


def _list_changed(parity: Parity) -> list[str]:
    found = [one for one in (parity.pixels, parity.whole) if one and one.changed]
    return [f"- Another label: {escape_markdown(', '.join(one.changed))}." for one in found]
