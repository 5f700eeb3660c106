"""What the record of a bundle says, in words and as the command that repeats it; the record is not trusted."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from featx.results import MOST_CHARACTERS
from featx.wording import to_text

_ORIGINS = {
    "source": "as the source has it",
    "hold-out": "held out at random by label",
    "cross-validation": "cross-validation",
}


def describe_split(split: Mapping[str, Any]) -> str:
    """Say in words how items were split, by the part of a record that says it."""
    origin, group = str(split.get("origin", "")), cut_text(split.get("group") or "")
    words = [_ORIGINS.get(origin, cut_text(origin))]
    if origin == "hold-out":
        words.append(f"{cut_text(split.get('test_size'))} of the items, seed {cut_text(split.get('seed'))}")
    if origin == "cross-validation":
        words.append(f"{cut_text(split.get('cv'))} folds, seed {cut_text(split.get('seed'))}")
    return ", ".join(filter(None, [*words, f"groups by {group}" if group else ""]))


def format_fit(record: Mapping[str, Any], head: str, params: Mapping[str, Any]) -> str:
    """Format the command that fits a head again on the same split.

    Args:
        record: The record of the bundle.
        head: The name of the head.
        params: Its parameters; of those that were given, only the class weight can be told from what was tuned.
    """
    stores = record.get("stores") or [take_part(record, "store")]
    paths = [cut_text(one.get("path", "STORE")) for one in stores if isinstance(one, Mapping)]
    split, corrections = take_part(record, "split"), take_part(record, "corrections")
    flags = {
        "clf": head,
        "protocol": record.get("protocol") or None,
        "class-weight": params.get("class_weight"),
        "cv": split.get("cv") or None,
        "test-size": split.get("test_size") if split.get("origin") == "hold-out" else None,
        "group": split.get("group") or None,
        "without": corrections.get("without"),
        "relabel": corrections.get("relabel"),
        "seed": split.get("seed"),
    }
    return format_command(["featx", "fit", *paths], flags)


def format_command(words: Sequence[str], flags: Mapping[str, Any]) -> str:
    """Format a command as a shell takes it; flags without a value are left out."""
    given = [word for name, value in flags.items() if value is not None for word in (f"--{name}", cut_text(value))]
    return shlex.join([*words, *given])


def take_part(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Take a part of a description that is not trusted; empty if it is missing or something else."""
    part = values.get(name)
    return part if isinstance(part, Mapping) else {}


def cut_text(value: object) -> str:
    """Shorten a text that is not trusted; a path stays whole."""
    text = to_text(str(value))
    return text if len(text) <= 50 * MOST_CHARACTERS else f"{text[: 50 * MOST_CHARACTERS]}..."
