"""The seconds that a fine-tuning records, with or without earlier work."""

from types import SimpleNamespace

import numpy as np
import pytest

from featx.files import Result, write_result
from featx.finetuning.finetuning import TrainedNetwork
from featx.finetuning.loop import STATE, LoopState, Roles, TrainingLoop
from featx.options import FineTuneOptions
from featx.specs import FineTuneSpec


@pytest.mark.parametrize(
    ("stores", "own", "earlier", "expected"),
    [
        (30.0, 30.2, 0.0, 99.8),  # embedded in this run
        (30.0, 0.5, 0.0, 129.5),  # embedded before
        (30.0, 0.5, 50.0, 179.5),  # and interrupted in the middle
        (None, 0.5, 50.0, 150.0),  # by an older featx, which did not record them
    ],
)
def test_seconds_include_earlier_work(stores, own, earlier, expected):
    data = SimpleNamespace(embed_seconds=stores, own_embed_seconds=own, cached=True)
    counts = {"trainable_parameters": 5, "frozen_parameters": 7, "head_parameters": 3}
    trainable = SimpleNamespace(count_parameters=lambda: counts, frontier=("cut",))
    progressed = LoopState(seconds=80.0, earlier_seconds=earlier)
    no_items = np.array([], np.intp)
    roles = Roles(no_items, no_items, no_items, ())
    trained = TrainedNetwork(trainable, None, FineTuneSpec(), data, None, roles, progressed, lambda: None)
    described = trained.describe("mobilenet", 100.0)
    assert described.seconds == pytest.approx(expected)
    assert (described.elapsed_seconds, described.embed_seconds, described.train_seconds) == (100.0, stores, 80.0)


def test_epochs_before_an_interruption_are_known(tmp_path):
    weights = {"w": np.zeros(2)}
    network = SimpleNamespace(dump=lambda: weights, restore=lambda _: None)
    record = {name: getattr(LoopState(seconds=12.5), name) for name in LoopState.__dataclass_fields__}
    del record["earlier_seconds"]  # as an older featx left it
    write_result(tmp_path / STATE, Result(record, weights | {"best_w": weights["w"]}))
    loop = TrainingLoop(network, None, None, (), FineTuneSpec(), tmp_path, FineTuneOptions())
    state = loop._resume()
    assert (state.seconds, state.earlier_seconds) == (12.5, 12.5)
