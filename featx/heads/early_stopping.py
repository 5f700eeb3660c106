"""Early stopping: which epoch was the best, when to halve the learning rate, and when to stop."""

import math
from dataclasses import dataclass

from featx.errors import DataError


@dataclass(slots=True)
class EarlyStopping:
    """A watch over a value that should fall from epoch to epoch.

    Heads and fine-tuned networks are trained by the same rule: after half of the patience without an improvement the
    learning rate is halved, and after all of it training stops. Whoever trains keeps the weights of the best epoch.

    Attributes:
        best: The lowest value so far.
        best_epoch: Number of the epoch that reached it; 0 for the start.
        waited: Epochs since then.
        factor: The factor of the learning rate.
    """

    best: float = math.inf
    best_epoch: int = 0
    waited: int = 0
    factor: float = 1.0

    def is_over(self, patience: int) -> bool:
        """Return whether training stops: so many epochs have passed without an improvement."""
        return self.waited >= patience

    def watch(self, value: float, *, epoch: int, patience: int, halves: bool = True) -> bool:
        """Take the value of an epoch, and return whether it is the best so far.

        Args:
            value: The value, which should fall.
            epoch: Number of the epoch, from 1.
            patience: Epochs without an improvement after which training stops.
            halves: Whether the learning rate is halved on a plateau.
        """
        if value < self.best:
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        if halves and self.waited % max(1, patience // 2) == 0:
            self.factor /= 2
        return False


def check_loss(loss: float, learning_rate: float) -> None:
    """Check that training has not diverged.

    Raises:
        DataError: If the loss is not finite.
    """
    if not math.isfinite(loss):
        msg = f"the loss is not finite at a learning rate of {learning_rate:g}; choose a smaller rate"
        raise DataError(msg)
