"""Classes from file names, other names for classes, and what is kept or left out: for every kind of source."""

import json
import shutil

import pytest

from featx.errors import SourceError, UnknownNameError, UsageError
from featx.items import Item, SourceOptions, read_source
from featx.items.renaming import rename_labels, suggest_rules
from featx.items.sources import read_source_again

JPEG = b"\xff\xd8\xff\xe0 a picture by its first bytes"

CHEST = {
    "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib": "adenocarcinoma",
    "large.cell.carcinoma_left.hilum_T2_N2_M0_IIIa": "large.cell.carcinoma",
    "squamous.cell.carcinoma_left.hilum_T1_N2_M0_IIIa": "squamous.cell.carcinoma",
    "normal": "normal",
}


@pytest.fixture
def make(tmp_path):
    def make_sources(names):
        """Make a folder, an archive and a table with these images, whose folders are their classes in the table."""
        for path in names:
            full = tmp_path / "d" / path
            full.parent.mkdir(parents=True, exist_ok=True)
            full.write_bytes(JPEG)
        archive = shutil.make_archive(str(tmp_path / "d"), "zip", tmp_path / "d")
        table = tmp_path / "d" / "table.csv"
        rows = [f"{path},{path.rpartition('/')[0].rpartition('/')[2]}" for path in sorted(names)]
        table.write_text("\n".join(["path,label", *rows]))
        return tmp_path / "d", archive, table

    return make_sources


def read_all(sources, **options):
    """Read all sources; their items must be the same, again as well. Return the folder's manifest."""
    manifests = [read_source(source, options=SourceOptions(**options)) for source in sources]
    for manifest in manifests:
        assert manifest.items == manifests[0].items
        assert read_source_again(manifest.source, manifest.reading).items == manifest.items
        assert read_source_again(manifest.source, manifest.reading).reading == manifest.reading
    return manifests[0]


@pytest.mark.parametrize(
    ("names", "pattern", "labels"),
    [
        (["x/cat.0.jpg", "x/dog.1.jpg"], r"([a-z]+)\.\d+\.jpg$", ["cat", "dog"]),
        (["x/n01440764_tench.JPEG", "x/n0_goldfish.JPEG"], r"n\d+_(?P<label>\w+)\.JPEG", ["goldfish", "tench"]),
        (["x/Abyssinian_12.jpg", "x/american_bulldog_3.jpg"], r"([^/]+)_\d+", ["Abyssinian", "american_bulldog"]),
        (["2020/p1-ill/a.jpg", "2021/p2-well/b.jpg"], r"(p\d)-(?P<label>[a-z]+)", ["ill", "well"]),
        (["a.be\u0301.jpg", "b.b\u00e9.jpg"], r"\.(\w+.?)\.", ["b\u00e9"]),
    ],
)
def test_classes_come_from_the_paths(make, names, pattern, labels):
    manifest = read_all(make(names), label_pattern=pattern)
    assert list(manifest.count_classes()) == labels
    assert sum(manifest.count_classes().values()) == len(names)


def test_paths_that_a_pattern_does_not_match_are_counted_and_named(make):
    folder, *_ = make([*(f"x/cat.{n}.jpg" for n in range(5)), *(f"x/{n}.jpg" for n in range(4))])
    with pytest.raises(SourceError) as caught:
        read_source(folder, options=SourceOptions(label_pattern=r"([a-z]+)\."))
    assert "does not match 4 of 9 images, such as 'x/0.jpg', 'x/1.jpg', 'x/2.jpg' and 1 more; change it" in str(
        caught.value
    )
    with pytest.raises(UsageError, match=r"matches no image; write an expression for paths such as 'x/0.jpg'"):
        read_source(folder, options=SourceOptions(label_pattern="(none)"))


def test_a_test_split_without_classes_in_its_names_stays_unlabelled(make):
    folder, *_ = make(["train/cat.0.jpg", "train/dog.1.jpg", "test1/1.jpg"])
    manifest = read_source(folder, options=SourceOptions(label_pattern=r"([a-z]+)\.\d"))
    assert manifest.items[0] == Item("test1/1.jpg", "", "test")
    assert "--label-pattern matches no image of test" in manifest.describe()
    assert manifest.count_classes("train") == {"cat": 1, "dog": 1}


def test_a_pattern_makes_folders_that_hold_the_same_folders_unambiguous(make):
    folder, *_ = make([f"fold{n}/{part}/cat.{n}.jpg" for n in range(3) for part in "ab"])
    assert read_source(folder, options=SourceOptions(label_pattern=r"/(\w+)\.\d")).count_classes() == {"cat": 6}


@pytest.mark.parametrize(
    "pattern", ["(", "cat", "(?:cat)", "[a", "(a{99999999999})", "(" * 500 + ")" * 500, "(a)" * 400]
)
def test_a_pattern_without_a_group_is_an_error(pattern):
    problems = r"is not a valid expression|has no group; put|has 1,200 characters; write at most 1,000"
    with pytest.raises(UsageError, match=rf"--label-pattern .* ({problems})"):
        SourceOptions(label_pattern=pattern)


def test_classes_that_train_names_differently_are_mapped_as_the_description_suggests(make):
    names = [f"train/{long}/1.jpg" for long in CHEST] + [f"valid/{long}/1.jpg" for long in CHEST]
    folder, *_ = make(names + [f"test/{short}/1.jpg" for short in CHEST.values()])
    lines = read_source(folder).describe()
    assert "test has classes that train lacks: adenocarcinoma, large.cell.carcinoma, squamous.cell.carcinoma" in lines
    (hint,) = (line for line in lines if "under other names" in line)
    assert hint == (
        "if train has these classes under other names, add --map-labels 'adenocarcinoma.*=adenocarcinoma' "
        r"--map-labels 'large\.cell\.carcinoma.*=large.cell.carcinoma' "
        r"--map-labels 'squamous\.cell\.carcinoma.*=squamous.cell.carcinoma'"
    )
    rules = [rule.strip("'") for rule in hint.split(" --map-labels ")[1:]]
    mapped = read_source(folder, options=SourceOptions(map_labels=rules))
    assert list(mapped.count_classes()) == sorted(CHEST.values())
    assert mapped.find_untrained_classes("test") == []
    assert "classes that --map-labels leaves as they are: normal" in mapped.describe()
    assert not any("under other names" in line for line in mapped.describe())


@pytest.mark.parametrize(
    ("tested", "trained", "rules"),
    [
        (["Large Cell"], ["large_cell"], ["--map-labels 'large_cell=Large Cell'"]),
        (["dog"], ["n02_dog"], ["--map-labels '.*dog=dog'"]),
        (["cat_2"], ["cat", "cattle"], ["--map-labels cat_2=cat"]),
        (["cat"], ["cat_a", "cat_b"], []),
        (["a_cat", "b_cat"], ["cat"], []),
        (["bird"], ["fish"], []),
        (["cat"], ["cat"], []),
        (["--"], ["x"], []),
    ],
)
def test_rules_are_suggested_for_names_that_are_like_one_other_only(tested, trained, rules):
    assert suggest_rules(tested, trained) == rules
    for rule in rules:
        text = rule.removeprefix("--map-labels ").strip("'")
        renamed, _ = rename_labels({*tested, *trained}, [text])
        assert {renamed.get(name, name) for name in tested} <= {renamed.get(name, name) for name in trained}


def test_the_first_rule_counts_and_a_whole_name_must_match(make):
    sources = make(["cat/1.jpg", "cattle/2.jpg", "dog_3/3.jpg"])
    manifest = read_all(sources, map_labels=["cat=felid", "(d..)_3=\\1", "ca.*=bovid", "cat=other"])
    assert list(manifest.count_classes()) == ["bovid", "dog", "felid"]


@pytest.mark.parametrize(
    "text", ["cat,felid\ndog,canid\nyak,bovid\n", "old;new\r\ncat;felid\r\ndog;canid", '"cat"\tfelid\ndog\tcanid']
)
def test_a_table_maps_names_as_they_are(make, tmp_path, text):
    path = tmp_path / "map.csv"
    path.write_text(text, newline="")
    assert list(read_all(make(["cat/1.jpg", "dog/2.jpg"]), map_labels=str(path)).count_classes()) == ["canid", "felid"]


@pytest.mark.parametrize("rules", ["map.csv", ["c.t=felid", "d(.*)=canid"], {"cat": "felid", "dog": "canid"}])
def test_the_record_of_a_reading_holds_the_new_names_in_place_of_the_rules(make, tmp_path, monkeypatch, rules):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.csv").write_text("cat,felid\ndog,canid\nyak,bovid\n")
    folder, *_ = make(["cat/1.jpg", "dog/2.jpg"])
    manifest = read_source(folder, options=SourceOptions(map_labels=rules, only="class=felid"))
    assert manifest.reading["options"]["map_labels"] == {"cat": "felid", "dog": "canid"}
    (tmp_path / "map.csv").unlink()
    again = read_source_again(manifest.source, json.loads(json.dumps(manifest.reading)))
    assert (again.items, again.reading) == (manifest.items, manifest.reading)


@pytest.mark.parametrize("rule", ["secret.txt", "(.*)=\\1"])
def test_the_rules_in_a_record_are_not_applied(make, tmp_path, monkeypatch, rule):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("the password is 1234\n")
    folder, *_ = make(["cat/1.jpg", "dog/2.jpg"])
    with pytest.raises(SourceError, match=r"holds rules for the names of classes.*; embed it again") as caught:
        read_source_again(str(folder), {"options": {"map_labels": [rule]}})
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("names", [{"cat": 1}, {1: "cat"}, {"cat": " "}])
def test_new_names_must_be_texts(names):
    with pytest.raises(UsageError, match="map_labels is"):
        SourceOptions(map_labels=names)


def test_an_expression_that_does_not_end_is_stopped(make, monkeypatch):
    monkeypatch.setattr("featx.items.searching.LIMIT_S", 0.5)
    folder, *_ = make([f"x/{'a' * 60}.jpg"])
    with pytest.raises(UsageError, match=r"--label-pattern '\(a\+\)\+\$' takes more than 0.5 s for 1 paths; write"):
        read_source(folder, options=SourceOptions(label_pattern="(a+)+$"))
    with pytest.raises(UsageError, match="takes more than"):
        read_source_again(str(folder), {"options": {"label_pattern": "(a+)+$"}})


@pytest.mark.parametrize(
    ("content", "renamed"),
    [
        (b"sep=|\ncat|felid\nB\xc3\xa4r|urs\xc3\xad\n", {"cat": "felid", "Bär": "ursí"}),
        ("sep=;\r\ncat;felid\r\nBär;ursí\r\n".encode("utf-16"), {"cat": "felid", "Bär": "ursí"}),
        ("# by hand\n# in May\ncat|felid\n\nBär|ursí\n".encode(), {"cat": "felid", "Bär": "ursí"}),
        ("cat,felid,\nBär,ursí,\n".encode("cp1252"), {"cat": "felid", "Bär": "ursí"}),
        (b"sep=^\ncat^fe,lid\n", {"cat": "fe,lid"}),
    ],
)
def test_a_table_of_names_is_read_as_other_tables_are(tmp_path, content, renamed):
    path = tmp_path / "map.csv"
    path.write_bytes(content)
    assert rename_labels(["cat", "Bär"], [str(path)])[0] == renamed


@pytest.mark.parametrize(("rows", "unused"), [("cat,felid\ncta,x\n", "cta"), ("cat,felid\nyak,x\nemu,y\n", "emu, yak")])
def test_rows_of_a_table_of_names_that_fit_no_class_are_listed(make, tmp_path, rows, unused):
    path = tmp_path / "map.csv"
    path.write_text(rows)
    notes = read_all(make(["cat/1.jpg", "dog/2.jpg"]), map_labels=str(path)).notes
    assert f"names in {str(path)!r} that no class has: {unused}" in notes
    assert "classes that --map-labels leaves as they are: dog" in notes


def test_the_encoding_of_a_table_of_names_is_reported(tmp_path):
    path = tmp_path / "map.csv"
    path.write_bytes("cat,Löwe\n".encode("cp1252"))
    (note,) = rename_labels(["cat"], [str(path)])[1]
    assert note.startswith(f"the table of names {str(path)!r}: the table is not UTF-8; it is read as cp1252 ('Löwe')")


@pytest.mark.parametrize("text", ["", "cat,felid,x\n", "cat,felid\ncat,canid\n", "cat\n", "cat,\n", 'cat,"felid'])
def test_a_table_of_names_that_is_not_clear_is_an_error(tmp_path, text):
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"the table of names .*map.csv'"):
        rename_labels(["cat"], [str(path)])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("cta=x", r"'cta=x' fits none of the classes cat, dog; did you mean cat\?"),
        ("(=x", "is not a valid expression"),
        ("(cat)=\\2", "is not a valid expression"),
        ("cat=", "has no new name; write REGEX=NAME, or leave a class out with --except class=NAME"),
        ("missing.csv", "is neither REGEX=NAME nor a CSV file"),
    ],
)
def test_rules_that_cannot_be_used_are_errors(rule, message):
    with pytest.raises(UsageError, match=message):
        rename_labels(["cat", "dog"], [rule])


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"only": "class=cat,dog"}, ["cat/1.jpg", "dog/2.jpg", "dog/old/3.jpg"]),
        ({"only": ["class=cat", "class=dog"]}, ["cat/1.jpg", "dog/2.jpg", "dog/old/3.jpg"]),
        ({"except_": "class=cat"}, ["a,b/4.jpg", "dog/2.jpg", "dog/old/3.jpg"]),
        ({"only": "class=dog", "except_": "folder=dog/old/"}, ["dog/2.jpg"]),
        ({"only": "folder=dog/old"}, ["dog/old/3.jpg"]),
        ({"only": "class=a,b"}, ["a,b/4.jpg"]),
        ({"map_labels": "cat|dog=pet", "only": "class=pet"}, ["cat/1.jpg", "dog/2.jpg", "dog/old/3.jpg"]),
    ],
)
def test_classes_and_folders_are_kept_or_left_out(make, options, ids):
    folder, archive, _ = make(["cat/1.jpg", "dog/2.jpg", "dog/old/3.jpg", "a,b/4.jpg"])
    for source in (folder, archive):
        manifest = read_source(source, options=SourceOptions(**options))
        assert [item.id for item in manifest.items] == ids
        assert manifest.junk["images not selected by --only or --except"] == 4 - len(ids)


def test_splits_are_kept_or_left_out_by_any_of_their_names(make):
    folder, archive, _ = make(["train/cat/1.jpg", "valid/cat/2.jpg", "test/cat/3.jpg"])
    for source in (folder, archive):
        assert read_source(source, options=SourceOptions(except_="split=test")).count_splits() == {"train": 1, "val": 1}
        assert read_source(source, options=SourceOptions(only="split=validation")).count_splits() == {"val": 1}


def test_the_rows_of_a_table_are_chosen_too(make):
    *_, table = make(["cat/1.jpg", "dog/2.jpg", "dog/old/3.jpg"])
    table.write_text("path,label,split\ncat/1.jpg,Cat,train\ndog/2.jpg,Dog,test\ndog/old/3.jpg,Dog,train\n")
    for options, ids in (
        ({"only": "class=Dog", "except_": "split=test"}, ["dog/old/3.jpg"]),
        ({"except_": "folder=dog"}, ["cat/1.jpg"]),
        ({"label_pattern": r"^(\w+)/", "only": "class=dog"}, ["dog/2.jpg", "dog/old/3.jpg"]),
    ):
        manifest = read_source(table, options=SourceOptions(**options))
        assert [item.id for item in manifest.items] == ids
        assert read_source_again(manifest.source, manifest.reading).items == manifest.items
    with pytest.raises(UsageError, match="has no folders of classes; leave out the layout"):
        read_source(table, options=SourceOptions(layout="class"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("class=ca", r"no class is called 'ca'; did you mean cat\? Known: cat, dog"),
        ("class=cat,dgo", r"no class is called 'dgo'; did you mean dog\?"),
        ("split=tset", r"no split is called 'tset'; did you mean test\? Known: test, train"),
        ("split=val", r"no split is called 'val'"),
        ("folder=trian", r"no folder is called 'trian'; did you mean train"),
    ],
)
@pytest.mark.parametrize("option", ["only", "except_"])
def test_unknown_names_are_errors_with_the_closest(make, option, rule, message):
    folder, *_ = make(["train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/3.jpg"])
    with pytest.raises(UnknownNameError, match=message):
        read_source(folder, options=SourceOptions(**{option: rule}))


@pytest.mark.parametrize("rule", ["cat", "clas=cat", "class=", "=cat", ""])
def test_a_rule_without_a_kind_is_an_error(rule):
    with pytest.raises(UsageError, match=r"does not say what to keep or leave out; write class=NAME, split=NAME"):
        SourceOptions(only=[rule])


def test_leaving_out_everything_is_an_error(make):
    folder, *_ = make(["cat/1.jpg", "dog/2.jpg"])
    for options in ({"except_": "class=cat,dog"}, {"except_": ["folder=cat", "folder=dog"]}):
        with pytest.raises(SourceError, match=r"--only and --except leave no image of .*; remove some of these rules"):
            read_source(folder, options=SourceOptions(**options))
