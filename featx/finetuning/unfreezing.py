"""Which layers of a backbone learn: plans such as `last:20`, and the stages that they stand for.

    last:N       the last N layers, as `featx layers` lists them; the head is none of them
    from:LAYER   that layer and all behind it, by its name or number
    blocks:N     the last N blocks, or all: a block is all layers whose feature maps have one size
    all          every layer
    gradual      all blocks, one after the other from the last one on, a stage for each
    gradual:N    the same for the last N blocks

Layers without parameters count for `last:N`, and learn nothing; nor do those of kind `Normalization`, whose
parameters are statistics.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from featx.backbones.protocol import LayerInfo
from featx.errors import UnknownNameError, UsageError
from featx.registry import find_closest

_PLANS = "last:N, from:LAYER, blocks:N, gradual, gradual:N or all"
_MAP_RANK = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training, with one set of layers that learn.

    Attributes:
        name: What a user calls it.
        layers: Names of the layers that learn.
        rate: What the backbone's learning rate is multiplied by.
    """

    name: str
    layers: frozenset[str]
    rate: float = 1.0


def plan_stages(plan: str, layers: Sequence[LayerInfo], title: str) -> tuple[Stage, ...]:
    """Plan the stages of training.

    Args:
        plan: As above, in any case but for the name of a layer.
        layers: The layers of the backbone up to where it is cut, in order.
        title: What the backbone is called.

    Returns:
        One stage, or for `gradual` one for each block, each with the layers of the one before and half of its rate.

    Raises:
        UsageError: If the plan is none, or lets nothing learn.
        UnknownNameError: If there is no such layer.
    """
    kind, _, value = plan.partition(":")
    kind = kind.lower()
    if kind == "gradual":
        count = _read_count(plan, value) if value else None
        blocks = _list_several_blocks(plan, layers, title)[::-1][:count]
        grown = itertools.accumulate(blocks, lambda known, more: [*more, *known])
        stages = [Stage(f"blocks:{number + 1}", frozenset(names), 0.5**number) for number, names in enumerate(grown)]
    elif kind == "all" and not value:
        stages = [Stage(plan, frozenset(layer.name for layer in layers))]
    elif kind == "last":
        stages = [Stage(plan, frozenset(layer.name for layer in layers[-_read_count(plan, value) :]))]
    elif kind == "blocks":
        chosen = list_blocks(layers)[-_read_count(plan, value) :]
        stages = [Stage(plan, frozenset(itertools.chain.from_iterable(chosen)))]
    elif kind == "from":
        first = _find_first(value, layers, title)
        stages = [Stage(plan, frozenset(layer.name for layer in layers[first:]))]
    else:
        msg = f"there is no plan {plan!r} for what is unfrozen; write {_PLANS}"
        raise UsageError(msg)
    weighted = {layer.name for layer in layers if _can_learn(layer)}
    if not stages or not stages[0].layers & weighted:
        msg = (
            f"with {plan} no layer of {title} that has parameters learns; choose more, or train the head by `featx fit`"
        )
        raise UsageError(msg)
    return tuple(stages)


def normalize_plan(plan: str) -> str:
    """Spell a plan in one way: its keyword in small letters, a layer's name as it is."""
    kind, colon, value = plan.strip().partition(":")
    return f"{kind.lower()}{colon}{value.strip()}"


def list_blocks(layers: Sequence[LayerInfo]) -> list[list[str]]:
    """Group the layers that have parameters to learn into blocks, from the pixels on.

    Layers are of one block if the largest map that any of them or of the layers behind it gives is of one
    size: so a squeeze to one pixel and back, as EfficientNet has in every block, ends no block, and
    vectors behind the maps belong to the last one.
    """
    areas = [math.prod(layer.output_shape[:-1]) if len(layer.output_shape) == _MAP_RANK else 0 for layer in layers]
    largest = list(itertools.accumulate(reversed(areas), max))[::-1]
    smallest = min((area for area in areas if area > 1), default=0)
    blocks: dict[int, list[str]] = {}
    for layer, area in zip(layers, largest, strict=True):
        if _can_learn(layer):
            blocks.setdefault(max(area, smallest), []).append(layer.name)
    return list(blocks.values())


def _can_learn(layer: LayerInfo) -> bool:
    return bool(layer.parameters) and layer.kind != "Normalization"


def _list_several_blocks(plan: str, layers: Sequence[LayerInfo], title: str) -> list[list[str]]:
    blocks = list_blocks(layers)
    if len(blocks) == 1:
        msg = (
            f"{title} has one block only, since the maps of all its layers that learn have one size, so {plan} has "
            "nothing to go down by; choose last:N or from:LAYER"
        )
        raise UsageError(msg)
    return blocks


def _read_count(plan: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        msg = f"{plan!r} lacks how many; write a number of at least 1, as in {plan.partition(':')[0].lower()}:2"
        raise UsageError(msg)
    return int(text)


def _find_first(layer: str, layers: Sequence[LayerInfo], title: str) -> int:
    names = [known.name for known in layers]
    if layer in names:
        return names.index(layer)
    if re.fullmatch(r"-?\d{1,6}", layer) and -len(names) <= int(layer) < len(names):
        return int(layer) % len(names)
    close = find_closest(layer, names)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    msg = f"{title} has no layer called {layer!r} to learn from; {hint}`featx layers {title}` lists them"
    raise UnknownNameError(msg)
