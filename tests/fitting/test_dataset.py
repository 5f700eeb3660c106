import shutil

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.errors import DataError, UsageError
from featx.fitting.dataset import load_dataset, split_dataset


def embed(source, folder, **options):
    return featx.embed(source, "colour", folder=folder, **options).store


def arrange(root, **splits):
    """Write splits, each with (classes, images per class, images to skip)."""
    for split, (classes, per_class, skip) in splits.items():
        write_digits(root / split, per_class=per_class, classes=classes, skip=skip)
    return root


def test_targets_are_positions_in_the_sorted_classes(store):
    dataset = load_dataset(store)
    assert dataset.classes == tuple("0123456789")
    assert dataset.labels.tolist() == store.labels.tolist()
    assert np.shares_memory(np.asarray(dataset.take_features()), store.features)


def test_items_without_a_label_are_left_out_and_reported(tmp_path):
    write_digits(tmp_path / "images", per_class=3, classes=2)
    (tmp_path / "table.csv").write_text(
        "path,label\n"
        + "".join(
            f"{p.relative_to(tmp_path)},{p.parent.name if i else ''}\n"
            for i, p in enumerate(sorted((tmp_path / "images").rglob("*.png")))
        )
    )
    dataset = load_dataset(embed(tmp_path / "table.csv", tmp_path / "f"))
    assert len(dataset) == 5
    assert "1 of 6 items has no label and is left out" in dataset.notes[0]
    assert dataset.take_features().shape == (5, 240)


def test_no_labels_and_one_class_are_errors(tmp_path):
    write_digits(tmp_path / "one", per_class=3, classes=1)
    with pytest.raises(DataError, match="only one class"):
        load_dataset(embed(tmp_path / "one", tmp_path / "f"))
    with pytest.raises(DataError, match="no labels"):
        load_dataset(embed(tmp_path / "one" / "0", tmp_path / "g"))


def label(tmp_path, labels):
    """Embed as many pictures as labels, from a table."""
    write_digits(tmp_path / "images", per_class=-(-len(labels) // 10), classes=10)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    rows = [f"{path.relative_to(tmp_path)},{name}" for path, name in zip(paths, labels, strict=False)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    return embed(tmp_path / "table.csv", tmp_path / "f")


def test_targets_that_are_not_classes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"40 different numbers .* regression is not supported"):
        load_dataset(label(tmp_path / "numbers", [f"{number / 7:.4f}" for number in range(40)]))
    with pytest.raises(DataError, match=r"such as 'cat\|bird': multi-label targets are not supported"):
        load_dataset(label(tmp_path / "several", ["cat", "dog", "cat|dog", "bird", "cat|bird", "dog|bird"] * 5))


def test_numbers_and_marks_may_be_names_of_classes(tmp_path):
    assert len(load_dataset(label(tmp_path / "sizes", ["0.5", "1.0", "2.5"] * 10)).classes) == 3
    assert len(load_dataset(label(tmp_path / "years", [str(1990 + number) for number in range(30)])).classes) == 30
    assert len(load_dataset(label(tmp_path / "marks", ["a|b", "c"] * 10)).classes) == 2


def test_hold_out_moves_no_old_item_when_images_are_added(tmp_path):
    write_digits(tmp_path / "d", per_class=20)
    before = embed(tmp_path / "d", tmp_path / "f")
    old = load_dataset(before)
    tested = set(old.keys[split_dataset(old, test_size=0.25, seed=1).test.members])
    write_digits(tmp_path / "d", per_class=40)
    new = load_dataset(embed(tmp_path / "d", tmp_path / "f"))
    again = set(new.keys[split_dataset(new, test_size=0.25, seed=1).test.members])
    assert tested == again & set(old.keys.tolist())
    assert len(again) > len(tested)


def test_the_splits_of_the_source_are_kept(tmp_path):
    root = arrange(tmp_path / "d", train=(3, 8, 0), valid=(3, 4, 8), test=(3, 4, 12))
    partition = split_dataset(load_dataset(embed(root, tmp_path / "f")), test_size=0.2, seed=0)
    assert (partition.origin, partition.test_name) == ("source", "test")
    assert (partition.train.sum(), partition.validation.sum(), len(partition.test)) == (24, 12, 12)


def test_val_is_the_test_where_there_is_no_other(tmp_path):
    root = arrange(tmp_path / "d", train=(3, 8, 0), val=(3, 4, 8))
    partition = split_dataset(load_dataset(embed(root, tmp_path / "f")), test_size=0.2, seed=0)
    assert partition.test_name == "val"
    assert not partition.validation.any()


def test_training_images_with_the_bytes_of_test_images_are_left_out(tmp_path):
    root = arrange(tmp_path / "d", train=(3, 8, 0), test=(3, 2, 0))
    dataset = load_dataset(embed(root, tmp_path / "f"))
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    assert not set(dataset.keys[partition.train]) & set(dataset.keys[partition.test.members])
    assert partition.train.sum() == 18
    assert "same bytes" in partition.notes[0]


def test_classes_in_test_that_train_lacks_are_named(tmp_path):
    root = arrange(tmp_path / "d", train=(2, 8, 0), test=(3, 4, 8))
    with pytest.raises(DataError, match=r"test has classes that train lacks: 2; train has 0, 1"):
        split_dataset(load_dataset(embed(root, tmp_path / "f")), test_size=0.2, seed=0)


@pytest.mark.parametrize(("trained", "rule"), [("1_left", "'1.*=1'"), ("class 1", "'.*1=1'"), ("one", "--map-labels$")])
def test_classes_that_train_names_differently_are_mapped_by_the_message(tmp_path, trained, rule):
    root = arrange(tmp_path / "d", train=(2, 8, 0), test=(2, 4, 8))
    (root / "train" / "1").rename(root / "train" / trained)
    message = rf"or read the images with --map-labels {rule}" if "=" in rule else rf"or read the images with {rule}"
    with pytest.raises(DataError, match=message.replace(".*", r"\.\*")):
        split_dataset(load_dataset(embed(root, tmp_path / "f")), test_size=0.2, seed=0)


def test_test_targets_can_be_taken_once(store):
    partition = split_dataset(load_dataset(store), test_size=0.2, seed=0)
    assert len(partition.test.open_targets()) == len(partition.test)
    with pytest.raises(RuntimeError, match="read before"):
        partition.test.open_targets()


def test_groups_by_expression_by_folder_and_by_column(tmp_path, digits):
    store = embed(digits, tmp_path / "f")
    by_tens = load_dataset(store, group=r"digit-(\d{3})")
    assert len(set(by_tens.groups)) == len({name.split("digit-")[1][:3] for name in store.ids})
    assert set(load_dataset(store, group="folder").groups) == set("0123456789")
    with pytest.raises(UsageError, match="is not a table with that column"):
        load_dataset(store, group="patient")

    rows = [(path, path.parent.name, index % 7) for index, path in enumerate(sorted(digits.rglob("*.png")))]
    table = tmp_path / "t.csv"
    table.write_text("path,label,patient\n" + "".join(f"{p},{label},p{group}\n" for p, label, group in rows))
    named = load_dataset(embed(table, tmp_path / "g", name="t"), group="patient")
    partition = split_dataset(named, test_size=0.3, seed=3)
    assert not set(named.groups[partition.train]) & set(named.groups[partition.test.members])


def test_a_group_column_is_read_from_the_table_as_it_was_embedded(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::10]
    table = tmp_path / "lists" / "t.csv"
    table.parent.mkdir()
    lines = [f"{path.relative_to(digits)},{path.parent.name},p{at % 3}" for at, path in enumerate(images)]
    table.write_text("\n".join(["where,what,patient", *lines]))
    manifest = featx.read_table(table, root=digits, columns=featx.Columns(path="where", label="what"))
    dataset = load_dataset(embed(manifest, tmp_path / "f"), group="patient")
    assert set(dataset.groups) == {"p0", "p1", "p2"}
    assert dataset.classes[0] == "0"


def test_a_test_size_that_leaves_nothing_is_an_error(tmp_path):
    write_digits(tmp_path / "d", per_class=1, classes=2)
    with pytest.raises(DataError, match=r"no image can be held out .* and .0. has 1, .1. has 1; add images"):
        split_dataset(load_dataset(embed(tmp_path / "d", tmp_path / "f")), test_size=0.2, seed=0)


def write_table(path, rows):
    path.write_text("path,label,split,patient\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_a_table_that_marks_only_the_test_trains_on_the_rest(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::10]
    rows = [(path, path.parent.name, "test" if number % 3 == 0 else "", "") for number, path in enumerate(images)]
    dataset = load_dataset(embed(write_table(tmp_path / "t.csv", rows), tmp_path / "f"))
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    assert len(partition.test) == sum(row[2] == "test" for row in rows)
    assert not (partition.train & partition.test.members).any()
    assert partition.train.sum() == sum(row[2] == "" for row in rows)
    assert not partition.notes


def test_items_in_no_split_are_left_out_and_reported(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::10]
    names = ("train", "test", "")
    rows = [(path, path.parent.name, names[number % 3], "") for number, path in enumerate(images)]
    dataset = load_dataset(embed(write_table(tmp_path / "t.csv", rows), tmp_path / "f"))
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    assert f"left out {sum(row[2] == '' for row in rows)} images without a split" in partition.notes[0]


def test_groups_in_train_and_test_of_the_source_are_reported(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::10]
    rows = [
        (path, path.parent.name, ("train", "test")[number % 2], f"p{number % 3}") for number, path in enumerate(images)
    ]
    dataset = load_dataset(embed(write_table(tmp_path / "t.csv", rows), tmp_path / "f"))
    assert (
        "3 of the source's groups are in train and in test, such as "
        in split_dataset(dataset, test_size=0.2, seed=0).notes[0]
    )


def test_classes_that_a_split_lacks_are_noted_with_what_to_do(tmp_path, digits):
    for number, (split, label) in enumerate([("train", "0"), ("train", "1"), ("train", "2"), ("val", "3")] * 3):
        (tmp_path / "d" / split / label).mkdir(parents=True, exist_ok=True)
        (picture,) = sorted((digits / label).iterdir())[number : number + 1]
        shutil.copy(picture, tmp_path / "d" / split / label)
    for label in ("0", "1"):
        shutil.copytree(digits / label, tmp_path / "d" / "test" / label, ignore=lambda _, names: sorted(names)[:20])
    dataset = load_dataset(featx.embed(tmp_path / "d", "colour", folder=tmp_path / "f").store)
    assert split_dataset(dataset, test_size=0.2, seed=0).notes == (
        "test has no images of 2, so averages over classes leave these out; add some to test",
        "val has images of 3, which count as wrong, since train has none; add some to train",
    )


def test_a_group_expression_that_matches_nothing_is_an_error(store):
    with pytest.raises(UsageError, match="matches no image"):
        load_dataset(store, group=r"(patinet\d+)")


def test_a_table_that_marks_only_train_is_tested_on_the_rest(tmp_path, digits):
    images = sorted(digits.rglob("*.png"))[::10]
    rows = [(path, path.parent.name, "train" if number % 3 else "", "") for number, path in enumerate(images)]
    dataset = load_dataset(embed(write_table(tmp_path / "t.csv", rows), tmp_path / "f"))
    partition = split_dataset(dataset, test_size=0.2, seed=0)
    assert partition.train.sum() == sum(row[2] == "train" for row in rows)
    assert len(partition.test) == sum(row[2] == "" for row in rows)
    assert partition.test_name == "test"
