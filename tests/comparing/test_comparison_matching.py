import shutil

import numpy as np
import pytest
from pictures import write_digits

import featx
from featx.comparing.comparison import match_stores
from featx.errors import DataError


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("some") / "digits", per_class=6, classes=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def embed(pictures, folder, name, size):
    return featx.embed(pictures, "colour", image={"height": size, "width": size}, name=name, folder=folder).store


@pytest.fixture(scope="module")
def large(pictures, folder):
    return embed(pictures, folder, "large", 16)


def change(pictures, tmp_path, edit):
    shutil.copytree(pictures, tmp_path / "digits")
    edit(tmp_path / "digits")
    return embed(tmp_path / "digits", tmp_path, "other", 8)


def test_stores_of_the_same_items_match_as_they_are(large, pictures, folder):
    match = match_stores([large, embed(pictures, folder, "small", 8)])
    assert len(match.dataset) == 18
    assert match.notes == ()
    assert [rows.tolist() for rows in match.rows] == [list(range(18))] * 2


def test_only_shared_items_are_compared(large, pictures, tmp_path):
    def edit(copy):
        first, second, *_ = sorted((copy / "0").iterdir())
        first.unlink()
        second.write_bytes(next((copy / "1").iterdir()).read_bytes())  # the same name, another picture
        write_digits(copy, per_class=1, classes=3, skip=30)

    other = change(pictures, tmp_path, edit)
    match = match_stores([large, other])
    assert len(match.dataset) == 16
    for number, store in enumerate((large, other)):
        assert np.array_equal(store.sha256[match.rows[number]], match.dataset.keys)
        assert np.array_equal(store.labels[match.rows[number]], match.dataset.labels)
    assert np.array_equal(large.ids[match.rows[0]], other.ids[match.rows[1]])
    (note,) = match.notes
    start = f"only the 16 items that all stores have are used, without 2 of {large.path}, such as 0/"
    assert note.startswith(start)
    assert f"; 4 of {other.path}, such as 0/" in note


def test_a_class_that_is_not_shared_is_left_out(large, pictures, tmp_path):
    other = change(pictures, tmp_path, lambda copy: shutil.rmtree(copy / "1"))
    dataset = match_stores([large, other]).dataset
    assert dataset.classes == ("0", "2")
    assert set(dataset.targets.tolist()) == {0, 1}


def test_nothing_in_common_is_an_error(large, tmp_path):
    other = embed(write_digits(tmp_path / "digits", per_class=3, classes=3, skip=20), tmp_path, "other", 8)
    with pytest.raises(DataError, match="no item, by id and content, is in all of the stores"):
        match_stores([large, other])


def test_one_class_in_common_is_an_error(large, pictures, tmp_path):
    def edit(copy):
        shutil.rmtree(copy / "1")
        shutil.rmtree(copy / "2")
        write_digits(copy, per_class=2, classes=2, skip=30)

    with pytest.raises(DataError, match="has only one class"):
        match_stores([large, change(pictures, tmp_path, edit)])


@pytest.mark.parametrize(("column", "what"), [("label", "label"), ("split", "split")])
def test_stores_that_disagree_are_refused(large, pictures, tmp_path, column, what):
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    rows = [(name, name[0], "train" if number % 3 else "test") for number, name in enumerate(names)]
    stores = []
    for number in range(2):
        changed = [list(row) for row in rows]
        if number:
            changed[3][1 if column == "label" else 2] = "2" if column == "label" else "val"
        table = tmp_path / f"{number}.csv"
        table.write_text("path,label,split\n" + "".join(",".join(row) + "\n" for row in changed))
        manifest = featx.read_source(table, root=pictures)
        stores.append(embed(manifest, tmp_path, f"s{number}", 8))
    with pytest.raises(DataError, match=f"the {what} of 1 items differs between .* such as that of 0/digit"):
        match_stores(stores)


def embed_table(pictures, folder, name, group):
    """Embed the pictures from a table that names a group of each, by a function of its number in the class."""
    paths = sorted(pictures.rglob("*.png"))
    rows = [f"{path},{path.parent.name},{group(number)}" for number, path in enumerate(paths)]
    table = folder / f"{name}.csv"
    table.write_text("\n".join(["path,label,group", *rows]))
    image = {"height": 8, "width": 8}
    return featx.embed(table, "colour", image=image, name=name, folder=folder).store


def test_groups_count_whichever_store_has_them(pictures, tmp_path):
    plain = embed_table(pictures, tmp_path, "plain", lambda _: "")
    grouped = embed_table(pictures, tmp_path, "grouped", lambda number: f"g{number % 3}")
    for stores in ([plain, grouped], [grouped, plain]):
        assert set(match_stores(stores).dataset.groups.tolist()) == {"g0", "g1", "g2"}
    other = embed_table(pictures, tmp_path, "other", lambda number: f"g{number % 2}")
    with pytest.raises(DataError, match="the group of 12 items differs"):
        match_stores([grouped, other])
