import csv
import math

import pytest
from PIL import Image

from featx.evaluation.plots import find_best_epoch, plot_history, write_history


def make_history(n_epochs, *, held_out=True):
    falling = [2.0 / (epoch + 1) for epoch in range(n_epochs)]
    history = {"loss": falling, "accuracy": [1 - loss / 3 for loss in falling], "auc": [math.nan] * n_epochs}
    if held_out:
        history |= {f"val_{name}": [value + 0.1 for value in values] for name, values in history.items()}
        history["val_loss"] = [abs(epoch - n_epochs // 2) + 0.5 for epoch in range(n_epochs)]
    return history | {"learning_rate": [1e-3 / 2 ** (epoch // 8) for epoch in range(n_epochs)]}


def test_the_best_epoch_is_that_of_the_lowest_loss_on_held_out_items():
    assert find_best_epoch(make_history(20)) == 11
    assert find_best_epoch(make_history(20, held_out=False)) == 20


def test_the_table_has_every_number_and_gaps_where_there_is_none(tmp_path):
    history = make_history(3)
    write_history(history, tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == list(history)
    assert [row["auc"] for row in rows] == [""] * 3
    assert [float(row["val_loss"]) for row in rows] == history["val_loss"]
    assert [float(row["loss"]) for row in rows] == history["loss"]


@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize("n_epochs", [1, 2, 20, 300])
def test_any_history_is_drawn_the_same_every_time(n_epochs, held_out, tmp_path):
    history = make_history(n_epochs, held_out=held_out)
    plot_history(history, tmp_path / "curves.png")
    plot_history(history, tmp_path / "again.png")
    svg = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "again.svg").read_text(encoding="utf-8")
    assert (tmp_path / "curves.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for words in (
        "loss",
        "accuracy",
        "ROC-AUC",
        "training items",
        f"weights kept from epoch {find_best_epoch(history)}",
    ):
        assert words in svg
    assert ("held-out items" in svg) == held_out
    assert ("learning rate lowered" in svg) == (n_epochs > 8)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 2 * image.height > 800
