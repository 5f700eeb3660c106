"""Layouts of folders: inferred, stated, drawn, and the same in an archive."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata

import pytest
from PIL import Image

from featx.errors import SourceError, UsageError
from featx.items import Item, SourceOptions, read_source
from featx.items.layouts import find_split, guess_split
from featx.items.sources import read_source_again

JPEG = b"\xff\xd8\xff\xe0 a picture by its first bytes"


def cross(tops, ends=("cats/1.jpg", "dogs/2.jpg")):
    return [f"{top}/{end}" for top in tops for end in ends]


@pytest.fixture
def make(tmp_path):
    def make_folder(names, name="d"):
        for path in names:
            full = tmp_path / name / path
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(JPEG)
        return tmp_path / name

    return make_folder


def pack(folder, kind):
    """Pack the content of a folder, and the folder itself, in two archives of its name."""
    inside, around = folder.parent / "inside" / folder.name, folder.parent / "around" / folder.name
    yield shutil.make_archive(str(inside), kind, folder)
    yield shutil.make_archive(str(around), kind, folder.parent, folder.name)


def read_all(folder, **options):
    """Read a folder and four archives of it; they must be the same. Return the folder's manifest."""
    manifest = read_source(folder, options=SourceOptions(**options))
    for kind in ("zip", "gztar"):
        for archive in pack(folder, kind):
            packed = read_source(archive, options=SourceOptions(**options))
            assert packed.items == manifest.items
            assert packed.reading == manifest.reading
            assert packed.describe()[1:] == manifest.describe()[1:]
            assert all(packed.reader.read(item.id) == JPEG for item in packed.items)
    assert all(manifest.reader.read(item.id) == JPEG for item in manifest.items)
    again = read_source_again(manifest.source, manifest.reading)
    assert (again.items, again.reading) == (manifest.items, manifest.reading)
    return manifest


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_images", "test_images"),
        ("Training", "Testing"),
        ("train-2019", "test-2019"),
        ("chest_xray_train", "chest_xray_test"),
        ("TrainSet", "TestSet"),
        ("trainset2", "valid_set"),
        ("train/images", "holdout/images"),
        ("trainval", "test"),
        ("wrapped/train", "wrapped/validation"),
    ],
)
def test_split_folders_are_recognised_with_other_words_and_folders_around_the_classes(make, train, test):
    manifest = read_all(make(cross([train, test])))
    held = find_split(test.rpartition("/")[2]) or find_split(test)
    assert manifest.count_splits() == {"train": 2, held: 2}
    assert manifest.count_classes() == {"cats": 2, "dogs": 2}
    assert any(line.strip().endswith("{cats, dogs}/ (train)") for line in manifest.describe())


def test_the_layout_is_drawn_as_a_small_tree(make):
    lines = read_source(make(cross(["training_set/training_set", "test_set/test_set"]))).describe()
    assert lines[1:4] == [
        "layout: split/*/class",
        "  training_set/training_set/{cats, dogs}/ (train)",
        "  test_set/test_set/{cats, dogs}/ (test)",
    ]
    many = read_source(make([f"train{n}/c{k}/1.jpg" for n in range(12) for k in range(7)], "many")).describe()
    assert many[2] == "  train0/{c0, c1, c2, c3, c4, 2 more}/ (train)"
    assert many[10] == "  and 4 more folders"


def test_images_directly_in_a_test_folder_have_no_class(make):
    for train, test in (("train", "test"), ("train_images", "test_images"), ("train/train", "test")):
        manifest = read_all(make([*cross([train]), f"{test}/1.jpg", f"{test}/2.jpg"], f"d {train.replace('/', ' ')}"))
        assert manifest.count_classes("train") == {"cats": 1, "dogs": 1}
        assert [(item.label, item.split) for item in manifest.items if "test" in item.id] == [("", "test")] * 2
        assert f"  {test}/ (test, without classes)" in manifest.describe()


@pytest.mark.parametrize("inside", ["test", "images", "test_data"])
def test_a_folder_in_the_test_that_names_no_class_gives_none(make, inside):
    manifest = read_all(make([*cross(["train"]), f"test/{inside}/1.jpg"]))
    assert Item(f"test/{inside}/1.jpg", "", "test") in manifest.items
    assert f"the images of test have no class, since '{inside}' is not a class of train" in manifest.describe()


@pytest.mark.parametrize("splits", [("train", "test"), ("Training", "valid_set"), ("train", "val", "test")])
def test_split_folders_below_the_classes(make, splits):
    manifest = read_all(make(cross(["Cat", "Dog"], [f"{split}/1.jpg" for split in splits])))
    assert manifest.count_classes() == {"Cat": len(splits), "Dog": len(splits)}
    assert set(manifest.count_splits()) == {find_split(split) for split in splits}
    assert "layout: class/split" in manifest.describe()


def test_images_next_to_split_folders_below_the_classes_are_refused_until_the_layout_is_stated(make):
    folder = make([*cross(["Cat", "Dog"], ["train/1.jpg", "test/1.jpg"]), "Dog/loose.jpg"])
    with pytest.raises(
        SourceError, match=r"'Dog' also holds images directly: add --layout class/split .*--layout class "
    ):
        read_source(folder)
    assert Item("Dog/loose.jpg", "Dog") in read_all(folder, layout="class/split").items
    assert not read_all(folder, layout="class").count_splits()


@pytest.mark.parametrize("tops", [["fold1", "fold2", "fold3"], ["siteA", "siteB"], ["2019", "2020"]])
@pytest.mark.parametrize("above", ["", "train/"])
def test_folders_that_hold_the_same_folders_are_refused_with_both_readings(make, tops, above):
    folder = make(cross([above + top for top in tops]))
    before = "split/" if above else ""
    upper, lower = ", ".join(map(repr, tops)), "'cats', 'dogs'"
    with pytest.raises(SourceError) as caught:
        read_source(folder)
    assert f"add --layout {before}class if {upper} are the classes; " in str(caught.value)
    assert f"--layout '{before}*/class' if {lower} are the classes (or {before}group/class" in str(caught.value)
    assert read_all(folder, layout=f"{before}class").count_classes() == dict.fromkeys(sorted(tops), 2)
    assert read_all(folder, layout=f"{before}*/class").count_classes() == {"cats": len(tops), "dogs": len(tops)}
    assert read_all(folder, layout=f"{before}group/class").count_groups() == len(tops)


@pytest.mark.parametrize("tops", [["fold1", "fold2"], ["2019", "2020", "2021"], ["Apple", "Tomato"]])
def test_split_folders_with_folders_inside_of_other_folders_are_refused_with_both_readings(make, tops):
    folder = make(cross(tops, [f"{split}/{end}" for split in ("train", "test") for end in ("ill/1.jpg", "well/2.jpg")]))
    upper = ", ".join(map(repr, tops))
    with pytest.raises(SourceError) as caught:
        read_source(folder)
    assert f"--layout class/split if {upper} are the classes, or --layout '*/split/class' if 'ill', 'well' are" in str(
        caught.value
    )
    assert list(read_all(folder, layout="class/split").count_classes()) == tops
    assert read_all(folder, layout="*/split/class").count_splits() == {"train": 2 * len(tops), "test": 2 * len(tops)}
    assert list(read_source_again(str(folder), {}).count_classes()) == tops
    images = make(cross(tops, ["train/images/1.jpg", "test/images/2.jpg"]), "images")
    assert list(read_all(images).count_classes()) == tops


def test_nearly_the_same_folders_are_a_sign_too_but_one_common_folder_is_not(make):
    with pytest.raises(SourceError, match="can be read in two ways"):
        read_source(make([*cross(["a", "b", "c"]), "a/birds/1.jpg"]))
    assert read_all(make(["a/images/1.jpg", "b/images/1.jpg"], "e")).count_classes() == {"a": 1, "b": 1}
    assert read_all(make(cross(["a", "b"], ["1.jpg", "x/1.jpg", "y/1.jpg"]), "f")).count_classes() == {"a": 3, "b": 3}


def test_a_source_that_was_read_before_this_was_refused_is_read_in_the_same_way_again(make):
    folder = make(cross(["front", "side"]))
    assert read_source_again(str(folder), {}).count_classes() == {"front": 2, "side": 2}
    inside = make(cross(["train/front", "train/side"]), "e")
    assert read_source_again(str(inside), {}).count_classes() == {"front": 2, "side": 2}


def test_a_folder_one_level_too_high_is_seen(make):
    lines = read_all(make(["mammals/cat/1.jpg", "mammals/dog/1.jpg", "birds/crow/1.jpg"])).describe()
    assert lines[1:4] == [
        "layout: class",
        "  {birds, mammals}/{cat, crow, dog}/",
        "the class folders hold only folders, such as mammals/cat; if these are the classes, add --layout '*/class'",
    ]


@pytest.mark.parametrize("tops", [("train_station", "test_tube"), ("bus", "train"), ("exam", "contest"), ("trains",)])
def test_names_that_only_contain_a_split_stay_classes(make, tops):
    manifest = read_all(make([f"{top}/{n}/1.jpg" for n, top in enumerate(tops)] + [f"{top}/1.jpg" for top in tops]))
    assert list(manifest.count_classes()) == sorted(tops)
    assert not manifest.count_splits()


@pytest.mark.parametrize("other", ["seg_pred/seg_pred/1.jpg", "copy/train/cats/1.jpg"])
def test_other_folders_next_to_split_folders_can_be_left_out(make, other):
    folder = make([*cross(["seg_train/seg_train", "seg_test/seg_test"]), other])
    top = other.partition("/")[0]
    with pytest.raises(SourceError, match=rf"other folders with images \('{top}'\); .*--except folder={top}, or"):
        read_source(folder)
    manifest = read_all(folder, except_=f"folder={top}")
    assert manifest.count_splits() == {"train": 2, "test": 2}
    assert manifest.junk == {"images not selected by --only or --except": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("mytrain", "mytest"),
        ("flowers_tr", "flowers_te"),
        ("trn", "tst"),
        ("newtraining", "oldtest"),
        ("aTr", "aVa"),
        ("mytrainval", "mytest"),
    ],
)
@pytest.mark.parametrize("around", ["", "w/"])
def test_folders_that_may_be_splits_are_refused_with_a_layout_that_reads_them(make, train, test, around):
    folder = make(cross([around + train, around + test]))
    layout = "'*/split/class'" if around else "split/class"
    with pytest.raises(SourceError, match=rf"; --layout {re.escape(layout)} if '.*' are splits"):
        read_source(folder)
    manifest = read_all(folder, layout=layout.strip("'"))
    assert manifest.count_splits() == {"train": 2, guess_split(test): 2}
    assert f"  {around}{train}/{{cats, dogs}}/ (train)" in manifest.describe()


@pytest.mark.parametrize("name", ["extra", "more", "unlabelled images"])
@pytest.mark.parametrize("around", ["", "w/"])
def test_another_folder_next_to_one_split_can_be_left_out(make, name, around):
    folder = make(cross([f"{around}train", around + name]))
    with pytest.raises(SourceError, match="leave folders out with, for example, --except") as caught:
        read_source(folder)
    (rule,) = shlex.split(str(caught.value).rpartition("--except ")[2])
    assert read_all(folder, except_=rule).count_splits() == {"train": 2}


@pytest.mark.parametrize("others", [["w/copy"], ["w/copy", "w/new"]])
def test_what_is_left_out_lies_in_the_folder_around_everything(make, others):
    folder = make(cross(["w/train", "w/test", *others]))
    rule = f"folder={','.join(others)}"
    with pytest.raises(SourceError, match=rf"leave the others out with --except {rule}, or"):
        read_source(folder)
    assert read_all(folder, except_=rule).count_splits() == {"train": 2, "test": 2}


@pytest.mark.parametrize(
    ("names", "rule", "layout"),
    [
        (cross(["images", "labels"]), "folder=labels", "class"),
        (["JPEGImages/1.jpg", "SegmentationClass/1.png"], "folder=SegmentationClass", "class"),
        (cross(["images", "masks"], ["train/1.jpg", "val/2.jpg"]), "folder=masks", "class/split"),
        (cross(["w/img", "w/ground truth"]), "folder=w/ground truth", "'*/class'"),
        (cross(["train/images", "test/images", "train/labels"]), "folder=train/labels", "split/class"),
        (cross(["train", "val"], ["images/1.jpg", "masks/1.png"]), "folder=train/masks,val/masks", "split/class"),
    ],
)
def test_images_and_their_masks_are_not_classes(make, names, rule, layout):
    folder = make(names)
    with pytest.raises(SourceError, match="which do not name classes") as caught:
        read_source(folder)
    assert f"with --except {shlex.quote(rule)}; if they are the classes, add --layout {layout}" in str(caught.value)
    kept = read_all(folder, except_=rule)
    assert all(word not in item.id for item in kept.items for word in ("labels", "masks", "truth", "Class"))
    assert read_all(folder, layout=layout.strip("'")).items


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": "class=cats"}, ["  train/cats/ (train)", "  test/cats/ (test)"]),
        ({"only": "class=c", "map_labels": "c(at|ow)s=c"}, ["  train/cats/ (train)", "  test/cats/ (test)"]),
        ({"except_": "split=test"}, ["  train/{birds, cats, dogs}/ (train)"]),
        ({"only": ["split=test", "class=dogs"]}, ["  test/dogs/ (test)"]),
        ({"except_": "folder=test/cats"}, ["  train/{birds, cats, dogs}/ (train)", "  test/dogs/ (test)"]),
    ],
)
def test_the_tree_shows_what_is_kept(make, options, expected):
    lines = read_all(make([*cross(["train", "test"]), "train/birds/1.jpg"]), **options).describe()
    assert [line for line in lines if line.startswith("  ")] == expected
    assert sum("left out" in line for line in lines) == 1
    assert " ".join(lines).count("left out") == 1


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (cross(["train", "training", "test"]), "several folders are read as train: train, training"),
        (cross(["train", "val", "dev", "valid"]), "several folders are read as val: dev, val, valid"),
        (cross(["cats", "dogs"], ["train/1.jpg", "Train/2.jpg", "test/1.jpg"]), "are read as train: Train, train"),
    ],
)
def test_folders_that_become_one_split_are_listed(make, names, note):
    assert any(note in line for line in read_source(make(names)).describe())
    assert not any("several" in line for line in read_source(make(cross(["train", "test"]), "e")).describe())


@pytest.mark.parametrize("names", [["train/1.jpg", "val/2.jpg"], ["w/train/a/1.jpg", "w/test/a/2.jpg", "w/test/3.jpg"]])
def test_split_folders_may_have_no_classes(make, names):
    assert sum(read_all(make(names)).count_splits().values()) == len(names)


def test_splits_of_different_depth_are_refused(make):
    with pytest.raises(
        SourceError, match=r"nested differently: 'test/test' holds only folders, and 'train' holds 'cats'"
    ):
        read_source(make(cross(["train", "test/test"])))


@pytest.mark.parametrize("above", ["PetImages", "a/b/PetImages", "data"])
def test_a_folder_around_everything_is_looked_through_at_any_depth(make, above):
    folder = make([f"{above}/Cat/1.jpg", f"{above}/Dog/sunny/2.jpg"])
    for junk in (".DS_Store", "__MACOSX/Cat/._1.jpg", f"{above}/Thumbs.db"):
        path = folder / junk
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    manifest = read_all(folder)
    assert manifest.items == (Item("Cat/1.jpg", "Cat"), Item("Dog/sunny/2.jpg", "Dog"))
    assert f"  {above}/{{Cat, Dog}}/sunny/" in manifest.describe()


def test_an_only_class_stays_a_class(make):
    assert read_all(make(["cat/1.jpg"])).items == (Item("cat/1.jpg", "cat"),)
    assert read_all(make(["w/cat/1.jpg", "w/cat/sunny/2.jpg"], "e")).count_classes() == {"cat": 2}
    assert read_all(make(["cat/sunny/1.jpg"], "f"), layout="class").items == (Item("cat/sunny/1.jpg", "cat"),)


def test_loose_images_next_to_several_class_folders_have_no_class(make):
    manifest = read_all(make(["data/sample.jpg", "data/cat/1.jpg", "data/dog/1.jpg"]))
    assert manifest.items == (Item("cat/1.jpg", "cat"), Item("dog/1.jpg", "dog"), Item("sample.jpg"))


def test_a_stated_layout_counts(make):
    folder = make(["a/train/p1/cat/1.jpg", "a/test/p2/dog/x/1.jpg", "a/1.jpg"])
    assert read_all(folder, layout="*/split/group/class").items == (
        Item("1.jpg"),
        Item("test/p2/dog/x/1.jpg", "dog", "test", "p2"),
        Item("train/p1/cat/1.jpg", "cat", "train", "p1"),
    )
    assert {item.label for item in read_all(folder, layout="flat").items} == {""}


@pytest.mark.parametrize(
    "layout", ["splits/class", "class/class", "split//class", "class/**", "flat/class", "split/*/x"]
)
def test_an_unknown_layout_is_an_error(layout):
    with pytest.raises(UsageError, match=r"the layout .* is not known; write .*such as split/class; or flat"):
        SourceOptions(layout=layout)


def test_a_layout_that_does_not_fit_is_an_error(make):
    folder = make(cross(["a"]))
    with pytest.raises(SourceError, match=r"reads the folder 'a' of .* as a split, .*rename it, leave it out"):
        read_source(folder, options=SourceOptions(layout="split/class"))
    with pytest.raises(SourceError, match=r"no image of .* the layout \*/\*/class; .* such as 'a/cats/1.jpg'"):
        read_source(folder, options=SourceOptions(layout="*/*/class"))


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="names may be any bytes only there")
def test_labels_do_not_depend_on_the_locale_or_the_form_of_the_name(make):
    forms = [unicodedata.normalize(form, "b\u00e4r") for form in ("NFC", "NFD")]
    folder = make([*cross(forms, ["1.jpg"]), "caf\u00e9/1.jpg", "b\udce4r/1.jpg"])
    code = (
        "import sys; from featx.items import read_source\n"
        "print(ascii([(item.id.isascii(), item.label) for item in read_source(sys.argv[1]).items]))"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-X", f"utf8={mode}", "-c", code, folder],
            env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for mode in (0, 1)
    ]
    assert sorted(shown[0]) == sorted(shown[1])
    assert read_source(folder).count_classes() == {"b\\udce4r": 1, "b\u00e4r": 2, "caf\u00e9": 1}


@pytest.mark.parametrize("name", ["a\nb", "c\x1b[31mred", "tab\there", "bell\x07"])
def test_control_characters_of_names_do_not_reach_the_terminal(make, name):
    folder = make([f"train/{name}/1.jpg", f"test/{name}/1.jpg", "test/other/1.jpg"], f"d{name}")
    lines = read_source(folder).describe()
    assert all(line.isprintable() for line in lines)
    assert any(name.encode("unicode_escape").decode() in line for line in lines[1:])


def test_ids_do_not_depend_on_what_is_left_out(make):
    folder = make(cross(["fold1", "fold2"]))
    assert read_all(folder, only="folder=fold1").items == (
        Item("fold1/cats/1.jpg", "cats"),
        Item("fold1/dogs/2.jpg", "dogs"),
    )
    folder = make(cross(["seg_train/seg_train", "seg_test/seg_test"]), "e")
    assert read_all(folder, except_="folder=seg_test").items[0] == Item(
        "seg_train/seg_train/cats/1.jpg", "cats", "train"
    )


@pytest.mark.parametrize(
    "names",
    [
        ("cats_train", "cats_test", "dogs_train", "dogs_test"),
        ("train_cats", "val_cats", "train_dogs", "val_dogs"),
        ("TrainOak", "TestOak", "TrainElm", "TestElm"),
    ],
)
def test_classes_that_are_named_after_splits_are_refused(names, tmp_path):
    for name in names:
        for number in range(2):
            (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number * 9, len(name), 0)).save(tmp_path / "d" / name / f"{number}.png")
    with pytest.raises(SourceError, match=r"are named after a class and a split: move them into .* add --layout class"):
        read_source(tmp_path / "d")
    stated = read_source(tmp_path / "d", options=SourceOptions(layout="class"))
    assert set(stated.count_classes()) == set(names)


def test_classes_that_only_sound_like_splits_are_classes(tmp_path):
    for name in ("train_station", "test_tube"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(tmp_path / "d" / name / "1.png")
    assert set(read_source(tmp_path / "d").count_classes()) == {"train_station", "test_tube"}
