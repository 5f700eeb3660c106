import hashlib
import json

import pytest
from pictures import write_digits

import featx
from featx import FitOptions, fit
from featx.audit.auditing import audit_store
from featx.cli.app import app
from featx.errors import DataError, SourceError
from featx.files import write_table
from featx.fitting.corrections import correct_items
from featx.fitting.dataset import load_dataset, split_dataset
from featx.items.sources import list_left_out, read_source_again

HEADER = "id,kind,score,suggestion,group,detail\n"


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Three classes in train and test; the test has near-copies of `train/0/*`, saved again with one pixel changed."""
    from PIL import Image

    root = tmp_path_factory.mktemp("corrections")
    write_digits(root / "data" / "train", per_class=12, classes=3)
    write_digits(root / "data" / "test", per_class=6, classes=3, skip=12)
    sources = sorted((root / "data" / "train" / "0").iterdir())[:2]
    for number, path in enumerate(sources):
        with Image.open(path) as image:
            changed = image.convert("RGB")
        changed.putpixel((0, 0), (9, 9, 9))
        changed.save(root / "data" / "test" / "0" / f"copy{number}.png")
    return featx.embed(root / "data", "colour", folder=root / "features").store


def names(store, split, label):
    return sorted(store.ids[(store.splits == split) & (store.labels == label)].tolist())


def write(path, *lines, header=HEADER):
    path.write_text(header + "".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_an_audit_is_applied_to_the_training_items_and_leaves_the_test_whole(splits, tmp_path):
    write_table(audit_store(splits).tabulate(), tmp_path / "audit.csv")
    before = split_dataset(load_dataset(splits), test_size=0.2, seed=0)
    for options in ({"group": str(tmp_path / "audit.csv")}, {"without": tmp_path / "audit.csv"}):
        dataset = load_dataset(splits, **options)
        after = split_dataset(dataset, test_size=0.2, seed=0)
        assert len(after.test) == len(before.test) == 20
        ids = dataset.store.ids[dataset.rows]
        gone = set(splits.ids.tolist()) - set(ids[after.train].tolist()) - set(ids[after.test.members].tolist())
        assert {f"train/0/{name.split('/')[-1]}" for name in gone} == gone
        assert len(gone) == 2
        said = [note for note in (*dataset.notes, *after.notes) if "audit.csv" in note or "--group" in note]
        assert any("2 " in note for note in said), said


def test_a_table_of_ids_is_left_out_of_the_bundle_and_its_record(splits, tmp_path):
    out = names(splits, "train", "1")[:3]
    table = write(tmp_path / "bad.csv", *out, header="id\n")
    run = fit(splits, "centroid", options=FitOptions(without=table, folder=tmp_path / "runs"))
    assert run.n_train == 33
    assert f"{table} leaves out 3 items" in run.notes
    record = json.loads((run.bundle / "bundle.json").read_text())["record"]["corrections"]
    assert (record["without"], record["left_out"], len(record["without_sha256"])) == (str(table), 3, 64)
    assert not any(name in (run.bundle / "items.csv").read_text() for name in out)


def test_info_names_the_tables(splits, tmp_path, capsys):
    table = write(tmp_path / "bad.csv", *names(splits, "train", "1")[:3], header="id\n")
    options = FitOptions(without=table, group=str(write(tmp_path / "g.csv", header="id,group\n")), folder=tmp_path)
    bundle = fit(splits, "centroid", options=options).bundle
    with pytest.raises(SystemExit) as end:
        app(["info", str(bundle)])
    assert not end.value.code
    shown = capsys.readouterr().out
    sha256 = hashlib.sha256(table.read_bytes()).hexdigest()[:16]
    assert f"items        --without {table}: 3 left out, sha256 {sha256}\n" in shown
    assert f"items        --group {tmp_path / 'g.csv'}: 0 grouped, sha256 " in shown


def test_of_copies_one_stays_and_what_is_to_be_checked_stays_too(splits, tmp_path):
    first, second, third, fourth = names(splits, "train", "2")[:4]
    other = names(splits, "test", "2")[0]
    table = write(
        tmp_path / "audit.csv",
        f"{first},near-copy,1,group,{first},",
        f"{second},near-copy,1,group,{first},",
        f"{other},copy,1,group,{second},",
        f"{second},copy,1,group,{second},",
        f"{third},blank,1,leave out,,",
        f"{fourth},tiny,1,check,,",
    )
    corrected = correct_items(splits, without=table, group=str(table))
    assert set(splits.ids[~corrected.kept].tolist()) == {first, second, third}
    assert "leaves out 3 items: 1 listed, and 2 further copies" in corrected.notes[0]
    assert set(splits.ids[corrected.copies != ""].tolist()) == {first, second, other}
    assert len(set(corrected.groups.tolist()) - {""}) == 1


def test_labels_are_those_of_the_table_and_a_class_without_items_is_said(splits, tmp_path):
    first, second = names(splits, "train", "0")[:2]
    audit = write(tmp_path / "audit.csv", f"{first},suspicious label,1,label 1,,", f"{second},outlier,1,check,,")
    changed = splits.labels != correct_items(splits, relabel=audit).labels
    assert splits.ids[changed].tolist() == [first]
    plain = write(tmp_path / "plain.csv", f"{second},2", header="id,label\n")
    dataset = load_dataset(splits, relabel=plain)
    assert dataset.labels[splits.ids.tolist().index(second)] == "2"
    assert f"{plain} changes the label of 1 item" in dataset.notes
    every = write(tmp_path / "every.csv", *splits.ids[splits.labels == "2"].tolist(), header="id\n")
    assert "the class has no items left: 2" in load_dataset(splits, without=every).notes


@pytest.mark.parametrize(
    ("header", "line", "option", "error", "message"),
    [
        ("id\n", "gone.png", "without", DataError, "names an item that .* does not have, such as 'gone.png'"),
        ("path\n", "ID", "without", DataError, "has no column 'id'; its columns are 'path'"),
        ("id\n", "ID", "group", DataError, "has no column 'group'"),
        ("id\n", "ID", "relabel", DataError, "has no column 'label'"),
        ("id,label\n", "ID,22", "relabel", DataError, "the label '22', which .* does not have; did you mean 2"),
        ("id,label\n", "ID,1\nID,2", "relabel", DataError, "two labels, '1' and '2'"),
        ("", "", "without", SourceError, "there is no table '.*'; `featx audit` writes one"),
        ("id,id\n", "ID,ID", "without", DataError, "has several columns 'id'; remove or rename"),
        ("id,label\n", "ID,wasps", "relabel", DataError, "'wasps', which .* does not have; its classes: 0, 1, 2$"),
        ("id,suggestion\n", "ID,leave out", "without", DataError, "has no column 'kind'"),
        (HEADER, "ID,blank,1,leaveout,,", "without", DataError, "line 2 of .* has the suggestion 'leaveout'; write"),
        (HEADER, "ID,outlier,1,lable 1,,", "relabel", DataError, "line 2 of .* has the suggestion 'lable 1'; write"),
        (HEADER, "ID,blank,1", "without", SourceError, "line 2 of .* has 3 fields and the header has 6"),
        (
            HEADER,
            '"ID,blank,1,leave out,,\nID,blank,1,leave out,,',
            "group",
            SourceError,
            "a quote in line 2 of .*",
        ),
        (HEADER, "ID,bl\0ank,1,leave out,,", "relabel", SourceError, "is not text: it contains zero bytes"),
        ("\n", "", "without", SourceError, "is empty; write the names of the columns"),
    ],
)
def test_wrong_tables(splits, tmp_path, header, line, option, error, message):
    path = tmp_path / "table.csv"
    if header:
        write(path, line.replace("ID", names(splits, "train", "0")[0]), header=header)
    with pytest.raises(error, match=message) as raised:
        correct_items(splits, **{option: str(path)})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_that_another_program_saved_is_read(splits, tmp_path, encoding):
    first, second = names(splits, "train", "0")[:2]
    lines = [HEADER.strip(), f"{first},blank,1, leave out ,,", f"{second},tiny,1,check,,"]
    text = "\r\n".join(lines).replace(",", ";")
    (tmp_path / "audit.csv").write_bytes(text.encode(encoding))
    assert splits.ids[~correct_items(splits, without=tmp_path / "audit.csv").kept].tolist() == [first]


def test_embed_leaves_out_what_a_table_names_and_records_it(tmp_path, capsys):
    write_digits(tmp_path / "images", per_class=6, classes=2)
    ids = embed_ids(tmp_path)
    assert len(ids) == 12
    table = write(
        tmp_path / "audit.csv",
        f"{ids[0]},blank,1,leave out,,",
        f"{ids[1]},copy,1,group,{ids[1]},",
        f"{ids[2]},copy,1,group,{ids[1]},",
        f"{ids[3]},outlier,1,check,,",
    )
    left = embed_ids(tmp_path, "--without", str(table))
    assert "audit.csv leaves out 2 items: 1 listed, and 1 further copies" in capsys.readouterr().err
    assert left == [ids[1], *ids[3:]]
    store = featx.FeatureStore(tmp_path / "features" / "colour.h5")
    assert store.reading["without"]["ids"] == [ids[0], ids[2]]
    assert len(store.reading["without"]["sha256"]) == 64
    again = read_source_again(store.source, store.reading)
    assert ([item.id for item in again.items], again.reading) == (left, store.reading)
    # The same table is no error for fit, although it names items that the store does not have.
    assert correct_items(store, without=table, group=str(table)).kept.all()
    assert embed_ids(tmp_path) == ids


def embed_ids(folder, *arguments):
    words = ["embed", folder / "images", "--backbone", "colour", "--features", folder / "features", *arguments]
    app(list(map(str, words)), standalone_mode=False)
    return featx.FeatureStore(folder / "features" / "colour.h5").ids.tolist()


def test_a_record_of_what_was_left_out_is_not_trusted():
    for without in ("x", {"ids": 3}, {"ids": [["a"]]}):
        with pytest.raises(SourceError, match=r"record of what was left out .* embed it again"):
            list_left_out({"without": without})


def test_nothing_left_is_an_error(tmp_path):
    write_digits(tmp_path / "images", per_class=2, classes=2)
    manifest = featx.read_source(tmp_path / "images")
    table = write(tmp_path / "all.csv", *[item.id for item in manifest.items], header="id\n")
    with pytest.raises(DataError, match=r"leaves out all 4 items of .*; delete some lines"):
        featx.correct_manifest(manifest, without=table)


def test_tested_items_that_are_corrected_are_said(splits, tmp_path):
    train, test = names(splits, "train", "0")[0], names(splits, "test", "0")[:2]
    table = write(tmp_path / "new.csv", f"{train},1", *(f"{one},1" for one in test), header="id,label\n")
    dataset = load_dataset(splits, relabel=table, without=write(tmp_path / "out.csv", test[0], header="id\n"))
    assert any("out.csv leaves out 1 item; 1 of them is tested otherwise" in note for note in dataset.notes)
    said = "of the 2 items that {table} labels anew, 1 is tested; if the features suggested these labels"
    assert any(said.format(table=table) in note for note in split_dataset(dataset, test_size=0.2, seed=0).notes)
    folded = fit(splits, "centroid", options=FitOptions(relabel=table, cv=2, folder=tmp_path / "runs"))
    assert any(f"of the 3 items that {table} labels anew, 3 are tested" in note for note in folded.notes)
    trained = write(tmp_path / "trained.csv", f"{train},1", header="id,label\n")
    dataset = load_dataset(splits, relabel=trained, without=write(tmp_path / "no.csv", train, header="id\n"))
    notes = (*dataset.notes, *split_dataset(dataset, test_size=0.2, seed=0).notes)
    assert not any("are tested" in note or "is tested" in note for note in notes)


def test_a_suggestion_that_a_spreadsheet_capitalized_counts(splits, tmp_path):
    first, second = names(splits, "train", "0")[:2]
    table = write(tmp_path / "audit.csv", f"{first},blank,1,Leave out ,,", f"{second},outlier,1,Label 1,,")
    corrected = correct_items(splits, without=table, relabel=table)
    assert splits.ids[~corrected.kept].tolist() == [first]
    assert splits.ids[corrected.labels != splits.labels].tolist() == [second]


def test_groups_are_joined_with_those_of_the_store(tmp_path):
    write_digits(tmp_path / "images", per_class=4, classes=2)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "images").rglob("*.png"))
    rows = [
        f"{path},{path.split('/')[1]},{'pair' if at in (1, 2) else ''},{'test' if at in (2, 5) else 'train'}"
        for at, path in enumerate(paths)
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,group,split", *rows]))
    store = featx.embed(tmp_path / "table.csv", "colour", folder=tmp_path / "features").store
    ids = store.ids.tolist()
    table = write(tmp_path / "audit.csv", f"{ids[0]},pair", f"{ids[1]},pair", f"{ids[5]},alone", header="id,group\n")
    corrected = correct_items(store, group=str(table))
    assert corrected.groups.tolist() == [ids[0]] * 3 + [""] * 5
    assert corrected.copies.tolist() == [ids[0]] * 2 + [""] * 6
    folds = load_dataset(store, group=str(table)).assign_folds(corrected.kept, 2, seed=0)
    assert len(set(folds[:3].tolist())) == 1
    notes = split_dataset(load_dataset(store, group=str(table)), test_size=0.2, seed=0).notes
    assert any("1 of the source's groups are in train and in test, such as pair, so" in note for note in notes)
