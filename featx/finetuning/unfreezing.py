"""Which layers of a backbone are trained: plans such as `last:20`, and the stages that they stand for.

    last:N       the last N layers, as `featx layers` lists them; the head does not count
    from:LAYER   that layer and all layers after it, by name or number
    blocks:N     the last N blocks: a block is all layers whose feature maps have the same size
    all          every layer
    gradual      all blocks, one after the other, starting with the last; each adds a stage
    gradual:N    the same for the last N blocks

Layers without parameters count for `last:N` although they have nothing to train. Neither have layers of kind
`Normalization`, whose parameters are statistics.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from featx.backbones.protocol import LayerInfo
from featx.errors import UnknownNameError, UsageError
from featx.registry import find_closest, suggest

_KINDS = ("last", "from", "blocks", "gradual", "all")
_PLANS = "last:N, from:LAYER, blocks:N, gradual, gradual:N or all"
_MAP_RANK = 3


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of training, with one set of trainable layers.

    Attributes:
        name: The plan that the stage stands for, such as `blocks:2`.
        layers: Names of the trainable layers.
        rate: Factor of the backbone's learning rate.
    """

    name: str
    layers: frozenset[str]
    rate: float = 1.0


def plan_stages(plan: str, layers: Sequence[LayerInfo], title: str) -> tuple[Stage, ...]:
    """Plan the stages of training.

    Args:
        plan: One of the plans above; upper and lower case are the same except in the name of a layer.
        layers: The layers of the backbone up to its cut, in order.
        title: The name of the backbone, for messages.

    Returns:
        One stage. For `gradual`, one per block: each has the layers of the stage before, a further block, and half
        the rate.

    Raises:
        UsageError: If the plan is not valid, or leaves nothing to train.
        UnknownNameError: If the layer does not exist.
    """
    check_plan(plan)
    kind, _, value = plan.partition(":")
    kind = kind.lower()
    if kind == "gradual":
        count = _read_count(plan, value) if value else None
        blocks = _list_several_blocks(plan, layers, title)[::-1][:count]
        grown = itertools.accumulate(blocks, lambda known, more: [*more, *known])
        stages = [Stage(f"blocks:{number + 1}", frozenset(names), 0.5**number) for number, names in enumerate(grown)]
    elif kind == "all":
        stages = [Stage(plan, frozenset(layer.name for layer in layers))]
    elif kind == "last":
        stages = [Stage(plan, frozenset(layer.name for layer in layers[-_read_count(plan, value) :]))]
    elif kind == "blocks":
        chosen = list_blocks(layers)[-_read_count(plan, value) :]
        stages = [Stage(plan, frozenset(itertools.chain.from_iterable(chosen)))]
    else:
        first = _find_first(value, layers, title)
        stages = [Stage(plan, frozenset(layer.name for layer in layers[first:]))]
    weighted = {layer.name for layer in layers if _is_trainable(layer)}
    if not stages or not stages[0].layers & weighted:
        msg = (
            f"{plan} unfreezes no layer of {title} that has parameters; unfreeze more, or train a head with `featx fit`"
        )
        raise UsageError(msg)
    return tuple(stages)


def check_plan(plan: str) -> None:
    """Check the spelling of a plan, before there are layers.

    Raises:
        UsageError: If it is not a plan.
    """
    kind, _, value = normalize_plan(plan).partition(":")
    if kind not in _KINDS or (kind == "all" and value) or (kind == "from" and not value):
        close = find_closest(kind, _KINDS)
        hint = (
            f"did you mean {':'.join(filter(None, [close[0], value]))}? Write"
            if close and close[0] != kind
            else "write"
        )
        msg = f"{plan!r} does not say which layers to unfreeze; {hint} {_PLANS}"
        raise UsageError(msg)
    if kind in {"last", "blocks"} or (kind == "gradual" and value):
        _read_count(plan, value)


def normalize_plan(plan: str) -> str:
    """Normalise the spelling of a plan: its keyword in lower case, a layer's name unchanged."""
    kind, colon, value = plan.strip().partition(":")
    return f"{kind.lower()}{colon}{value.strip()}"


def list_blocks(layers: Sequence[LayerInfo]) -> list[list[str]]:
    """Group the layers that have trainable parameters into blocks, in order from the pixels.

    A layer's block is decided by the largest map that it or any later layer gives. So a squeeze to one pixel and
    back, which EfficientNet has in every block, does not end a block, and layers that give vectors belong to the
    last block.
    """
    areas = [math.prod(layer.output_shape[:-1]) if len(layer.output_shape) == _MAP_RANK else 0 for layer in layers]
    largest = list(itertools.accumulate(reversed(areas), max))[::-1]
    smallest = min((area for area in areas if area > 1), default=0)
    blocks: dict[int, list[str]] = {}
    for layer, area in zip(layers, largest, strict=True):
        if _is_trainable(layer):
            blocks.setdefault(max(area, smallest), []).append(layer.name)
    return list(blocks.values())


def _is_trainable(layer: LayerInfo) -> bool:
    return bool(layer.parameters) and layer.kind != "Normalization"


def _list_several_blocks(plan: str, layers: Sequence[LayerInfo], title: str) -> list[list[str]]:
    blocks = list_blocks(layers)
    if len(blocks) == 1:
        msg = (
            f"{title} has only one block, because the maps of all its trainable layers have the same size, so {plan} "
            "cannot unfreeze block by block; choose last:N or from:LAYER"
        )
        raise UsageError(msg)
    return blocks


def _read_count(plan: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not int(text):
        msg = f"{plan!r} does not say how many; write a number of at least 1, as in {plan.partition(':')[0].lower()}:2"
        raise UsageError(msg)
    return int(text)


def _find_first(layer: str, layers: Sequence[LayerInfo], title: str) -> int:
    names = [known.name for known in layers]
    if layer in names:
        return names.index(layer)
    if re.fullmatch(r"-?\d{1,6}", layer) and -len(names) <= int(layer) < len(names):
        return int(layer) % len(names)
    hint = suggest(layer, names)
    msg = f"{title} has no layer called {layer!r}; {f'{hint} ' if hint else ''}`featx layers {title}` lists them"
    raise UnknownNameError(msg)
