"""Protocols: established ways to measure features, by name, each with its source.

A protocol fixes a head, its scaling and the values that are tried. The value with the highest
accuracy on folds of the training items is chosen, as these were published. As for any other head,
the head is fitted again to all training and validation items, and the test is evaluated once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featx.errors import UsageError
from featx.heads import Head, find_head
from featx.registry import HEADS, make_unknown_name_error
from featx.specs import HeadSpec


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way of measuring features.

    Attributes:
        name: Its name on the command line.
        description: A description, with the source.
        head: The head.
        scaling: The scaling; None if it is tuned.
        params: Parameters that are fixed.
        grid: The values that are tried, from the strongest regularisation to the weakest; empty
            for those that the head tries by default.
        shots: Numbers of items of each class that the head is also fitted on; empty for most.
    """

    name: str
    description: str
    head: str
    scaling: str | None
    params: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shots: tuple[int, ...] = ()

    def adapt(self, head: Head) -> Head:
        """Return the head with the protocol's grid, in the units in which it was published, chosen by accuracy."""
        by_accuracy = replace(head, tolerance=0.0)
        if not self.grid:
            return by_accuracy
        scalings = (self.scaling,) if self.scaling else head.scalings
        return replace(by_accuracy, grid=self.grid, grid_unit=0, scalings=scalings)


def _list_inverses(low: float, high: float, count: int) -> tuple[float, ...]:
    """List C = 1 / lambda for values of lambda in equal steps of their logarithm, the largest lambda first."""
    return tuple(float(f"{1 / value:.6g}") for value in np.geomspace(high, low, count))


#: lambda multiplies half the squared weights, added to the sum of the losses, so it is 1 / C of scikit-learn.
KORNBLITH = Protocol(
    "kornblith",
    "multinomial logistic regression by L-BFGS on unscaled features, 45 values of the L2 penalty from 1e-6 to "
    "1e5, each started from the one before (Kornblith, Shlens & Le 2019, Do Better ImageNet Models Transfer "
    "Better?, section 3; Chen et al. 2020, SimCLR, appendix B.8)",
    "logreg",
    "none",
    grid={"C": _list_inverses(1e-6, 1e5, 45)},
)

CLIP = Protocol(
    "clip",
    "multinomial logistic regression by L-BFGS on unscaled features, at most 1,000 steps, 96 values of the L2 "
    "penalty from 1e-6 to 1e6 (Radford et al. 2021, CLIP, appendix A.3; all values are tried, while the paper "
    "searches among them)",
    "logreg",
    "none",
    params={"max_iter": 1000},
    grid={"C": _list_inverses(1e-6, 1e6, 96)},
)

DINOV2_KNN = Protocol(
    "dinov2-knn",
    "votes of the 10, 20, 100 or 200 nearest items by cosine, weighted by exp(similarity / 0.07) "
    "(Wu et al. 2018, section 3.4; Caron et al. 2021, DINO, appendix F; Oquab et al. 2023, DINOv2, section 7.1)",
    "knn",
    "none",
    params={"weights": "temperature", "temperature": 0.07},
    grid={"n_neighbors": (200, 100, 20, 10)},
)

FEWSHOT = Protocol(
    "fewshot",
    "ridge regression on targets -1 and 1, fitted on 1, 2, 4, 8 and 16 items of each class, five draws of each "
    "(Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 4.1; numbers of shots: Radford et al. 2021, "
    "CLIP, figure 6)",
    "ridge",
    None,
    shots=(1, 2, 4, 8, 16),
)

PROTOCOLS = {protocol.name: protocol for protocol in (KORNBLITH, CLIP, DINOV2_KNN, FEWSHOT)}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name, in any case.

    Raises:
        UnknownNameError: If there is no such protocol; the closest names come first.
    """
    if name.lower() not in PROTOCOLS:
        kind = "protocol"
        raise make_unknown_name_error(kind, name, PROTOCOLS)
    return PROTOCOLS[name.lower()]


def plan_head(spec: HeadSpec, protocol: Protocol | None) -> tuple[Head, HeadSpec]:
    """Return the head to tune and the spec that fixes the rest, by a protocol or by the user.

    Raises:
        UnknownNameError: If there is no such head or parameter.
        UsageError: If a parameter does not fit, or the user fixes what the protocol fixes.
    """
    head = find_head(spec.name)
    if "class_weight" in spec.params and "class_weight" not in head.params:
        able = [name for name in HEADS if "class_weight" in find_head(name).params]
        msg = f"{head.name} cannot weight classes; choose one of {', '.join(able)}"
        raise UsageError(msg)
    if protocol is None:
        return head, replace(spec, name=head.name, params=head.check_params(spec.params))
    twice = sorted({*protocol.params, *protocol.grid} & set(spec.params))
    if head.name != protocol.head or twice or (protocol.scaling and spec.scaling not in {None, protocol.scaling}):
        fixed = f"the head {protocol.head}, " + ", ".join([*protocol.params, *protocol.grid, "scaling"])
        msg = f"the protocol {protocol.name} fixes {fixed}; leave these out, or leave out --protocol"
        raise UsageError(msg)
    params = head.check_params({**spec.params, **protocol.params})
    scaling = spec.scaling or protocol.scaling
    # A calibration that is chosen by the items may change predicted classes, which the papers do not do.
    calibration = head.choose_calibration(spec.calibration)
    fixed_spec = replace(spec, name=head.name, params=params, scaling=scaling, calibration=calibration)
    return protocol.adapt(head), fixed_spec
