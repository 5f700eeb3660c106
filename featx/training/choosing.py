"""Which heads are compared, and what is fixed of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featx.errors import UsageError
from featx.heads import Head, find_head
from featx.registry import list_heads
from featx.specs import HeadSpec


def choose_heads(
    heads: str | Sequence[str | HeadSpec], seed: int, params: Mapping[str, Any], calibration: str | None
) -> tuple[list[HeadSpec], list[str]]:
    """Make the specs of heads, each once, and notes on what could not be fixed.

    Args:
        heads: Names of heads or sets, with commas between in one text, or specs, which stay as they are.
        seed: Seed of those that are named.
        params: What is fixed of every named head that has such a parameter.
        calibration: One of `featx.specs.CALIBRATIONS` for every named head; None for what each needs.

    Raises:
        UnknownNameError: If no head has a name.
        UsageError: If nothing is named, or no head has a parameter.
    """
    asked = [heads] if isinstance(heads, str) else heads
    specs, named = list[HeadSpec](), list[Head]()
    for entry in asked:
        if isinstance(entry, HeadSpec):
            head = find_head(entry.name)
            specs.append(replace(entry, name=head.name, params=head.check_params(entry.params)))
            continue
        for name in list_heads([name.strip() for name in entry.split(",") if name.strip()]):
            head = find_head(name)
            own = {key: value for key, value in params.items() if key in head.params}
            specs.append(HeadSpec(head.name, head.check_params(own), None, seed, calibration))
            named.append(head)
    unique = list({spec.digest: spec for spec in specs}.values())
    if not unique:
        msg = "no head is named; give some, such as logreg,knn or fast"
        raise UsageError(msg)
    return unique, [note for name in params for note in _note_lacking(name, named)]


def _note_lacking(parameter: str, heads: Sequence[Head]) -> list[str]:
    lacking = list(dict.fromkeys(head.name for head in heads if parameter not in head.params))
    if heads and len(lacking) == len({head.name for head in heads}):
        msg = f"none of {', '.join(lacking)} has a parameter {parameter}; leave it out, or name another head"
        raise UsageError(msg)
    return [f"{', '.join(lacking)}: without {parameter}, which is no parameter there"] if lacking else []
