"""Features of other tools, in files laid out as each tool lays them out; layouts are named in `featx.importing`."""

import io

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import featx
from featx.errors import DataError, SourceError, SpecMismatchError, UsageError
from featx.reporting import Reporter

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(6, 4)).astype(np.float32)


def write_slide(path, features, coords, attributes):
    """As TRIDENT's save_h5: chunks of one row, and attributes of the patches on `coords`."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in (("features", features), ("coords", coords)):
            chunks = (1, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, maxshape=(None, *values.shape[1:]))
        file["features"].attrs["name"] = path.stem
        file["coords"].attrs.update(attributes)


def write_trident(folder):
    attributes = {"patch_size": 256, "target_magnification": 20, "level0_magnification": 40, "overlap": 0}
    places = np.array([[0, 0], [512, 0], [0, 512]])
    write_slide(folder / "s1.h5", FEATURES[:3], places, attributes)
    write_slide(folder / "s2.h5", FEATURES[None, 3:], places, {**attributes, "overlap": 8})
    return [f"{slide}:{x},{y}" for slide in ("s1", "s2") for x, y in places.tolist()]


def write_clam(folder):
    write_slide(folder / "s1.h5", FEATURES, np.arange(12).reshape(6, 2), {"patch_size": 256, "patch_level": 0})
    return [f"s1:{2 * row},{2 * row + 1}" for row in range(6)]


def write_hloc(folder):
    folder.mkdir()
    names = ["db/a.jpg", "db/b.jpg", "db/c/d.jpg", "e.jpg", "query/f.jpg", "query/g.jpg"]
    with h5py.File(folder / "global-feats-netvlad.h5", "w", libver="latest") as file:
        for name, row in zip(names, FEATURES, strict=True):
            group = file.create_group(name)
            group.create_dataset("global_descriptor", data=row)
            group.create_dataset("image_size", data=np.array([640, 480]))
    return names


def write_thingsvision(folder):
    folder.mkdir()
    for number, rows in enumerate((FEATURES[:2], FEATURES[2:]), 1):
        np.save(folder / f"features_{number:02d}.npy", rows.reshape(len(rows), 2, 2))  # not flattened
    names = [f"cat/{row}.jpg" for row in range(6)]
    (folder / "file_names.txt").write_text("".join(f"{name}\n" for name in names))
    return names


def write_clip_retrieval(folder):
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    names = [f"{row:09d}" for row in range(6)]
    for number, rows in (("0", slice(0, 4)), ("1", slice(4, 6))):
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", FEATURES[rows])
        table = {"image_path": names[rows], "caption": ["a cat"] * len(names[rows]), "status": "success"}
        pd.DataFrame(table).to_parquet(folder / "metadata" / f"metadata_{number}.parquet")
    return names


def write_anndata(folder):
    folder.mkdir()
    with h5py.File(folder / "a.h5ad", "w") as file:
        file.attrs["encoding-type"] = "anndata"
        file["X"] = np.zeros((6, 0), np.float32)
        file.create_dataset("obsm/X_dino", data=FEATURES, compression="gzip")
        obs = file.create_group("obs")
        obs.attrs["_index"] = "cell"
        obs["cell"] = [f"cell {row}" for row in range(6)]
        obs["class/codes"], obs["class/categories"] = np.array([0, 1, 0, 1, -1, 0], np.int8), ["T", "B"]
    return [f"cell {row}" for row in range(6)]


def write_npy(folder):
    folder.mkdir()
    np.save(folder / "plain.npy", np.asfortranarray(FEATURES))
    return [f"plain:{row}" for row in range(6)]


def write_npz(folder):
    folder.mkdir()
    names = np.array([f"ä{row}.png" for row in range(6)])
    np.savez_compressed(folder / "a.npz", embeddings=FEATURES, filenames=names, y=np.arange(6) % 2)
    return names.tolist()


def write_parquet(folder):
    folder.mkdir()
    frame = pd.DataFrame(FEATURES, columns=[f"emb_{number}" for number in range(4)])
    frame.assign(key=[f"k{row}" for row in range(6)], label="x").to_parquet(folder / "a.parquet")
    return [f"k{row}" for row in range(6)]


WRITERS = {
    "trident": write_trident,
    "clam": write_clam,
    "hloc": write_hloc,
    "thingsvision": write_thingsvision,
    "clip-retrieval": write_clip_retrieval,
    "anndata": write_anndata,
    "npy": write_npy,
    "npz": write_npz,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("tool", WRITERS)
def test_a_store_has_the_rows_of_the_files_under_their_names(tool, tmp_path):
    ids = WRITERS[tool](tmp_path / "data")
    store = featx.import_features(tmp_path / "data", folder=tmp_path)
    assert store.path == tmp_path / "data.h5"
    assert store.ids.tolist() == ids
    assert np.array_equal(store.features, FEATURES)
    assert store.spec.backbone.imported_from == tool
    assert not featx.verify_store(store.path).damage
    content = store.path.read_bytes()
    again = featx.import_features(str(tmp_path / "data"), folder=tmp_path, format_=tool)
    assert again.path.read_bytes() == content


def test_what_the_files_know_is_kept(tmp_path):
    write_trident(tmp_path / "slides")
    slides = featx.import_features(tmp_path / "slides", folder=tmp_path)
    assert slides.groups.tolist() == ["s1"] * 3 + ["s2"] * 3
    facts = slides.reading["imported"]
    assert (facts["files"], facts["patch_size"], facts.get("overlap")) == (2, 256, None)  # they differ in the overlap
    for tool, labels in (("anndata", ["T", "B", "T", "B", "", "T"]), ("npz", list("010101")), ("parquet", ["x"] * 6)):
        WRITERS[tool](tmp_path / tool)
        assert featx.import_features(tmp_path / tool, folder=tmp_path).labels.tolist() == labels


def test_a_table_labels_items_and_whole_slides(tmp_path):
    write_trident(tmp_path / "slides")
    (tmp_path / "labels.csv").write_text("slide_id,label,split,group\ns1,tumour,training,p1\ns2:512,0,normal,test,p2\n")
    with pytest.raises(SourceError, match="has 5 fields"):
        featx.import_features(tmp_path / "slides", folder=tmp_path, labels=tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text('id,label,split,group\ns1,tumour,training,p1\n"s2:512,0",normal,test,p2\n')
    store = featx.import_features(tmp_path / "slides", folder=tmp_path, labels=tmp_path / "labels.csv")
    assert store.labels.tolist() == ["tumour"] * 3 + ["", "normal", ""]
    assert store.splits.tolist() == ["train"] * 3 + ["", "test", ""]
    assert store.groups.tolist() == ["p1"] * 3 + ["s2", "p2", "s2"]
    (tmp_path / "labels.csv").write_text("id,label\ns1,tumour\ns3,normal\n")
    with pytest.raises(SourceError, match=r"names an id that no row of the features has: 's3'"):
        featx.import_features(tmp_path / "slides", folder=tmp_path, labels=tmp_path / "labels.csv")


def test_rows_that_are_not_finite_are_quarantined_and_equal_rows_are_copies(tmp_path, monkeypatch):
    rows = np.repeat(FEATURES, 3, axis=0).astype(np.float64)
    rows[4, 1], rows[17, 0] = np.nan, 1e300
    monkeypatch.setattr("featx.importing.parts._BLOCK_BYTES", 100)  # blocks of three rows
    np.save(tmp_path / "a.npy", rows)
    store = featx.import_features(tmp_path / "a.npy", folder=tmp_path)
    assert [name for name, _, _ in store.quarantine] == ["a:4", "a:17"]
    kept = np.delete(np.arange(18), [4, 17])
    assert np.array_equal(store.features, rows[kept].astype(np.float32))
    assert sorted(map(len, store.find_duplicates())) == [2, 2, 3, 3, 3, 3]
    np.save(tmp_path / "bad.npy", np.full((3, 2), np.inf))
    with pytest.raises(DataError, match="no row of finite features"):
        featx.import_features(tmp_path / "bad.npy", folder=tmp_path)
    assert not (tmp_path / "bad.h5").exists()


def test_other_numbers_do_not_replace_a_store_and_named_networks_can_be_merged(tmp_path):
    for name, rows in (("a", FEATURES), ("b", FEATURES + 1)):
        np.savez(tmp_path / f"{name}.npz", features=rows, ids=[f"{name}{row}" for row in range(6)])
    a = featx.import_features(tmp_path / "a.npz", folder=tmp_path)
    with pytest.raises(SpecMismatchError, match=r"another spec \(backbone.weights_digest"):
        featx.import_features(tmp_path / "b.npz", folder=tmp_path, name="a")
    b = featx.import_features(tmp_path / "b.npz", folder=tmp_path)
    with pytest.raises(SpecMismatchError, match="different specs"):
        featx.merge_stores([a, b], tmp_path / "both.h5")
    named = [
        featx.import_features(tmp_path / f"{name}.npz", folder=tmp_path, name=f"{name}-named", network="CLIP B/32")
        for name in "ab"
    ]
    assert len(featx.merge_stores(named, tmp_path / "both.h5")) == 12
    np.savez(tmp_path / "a.npz", features=FEATURES[::-1], ids=[f"a{row}" for row in range(6)])
    with pytest.raises(SpecMismatchError, match="other numbers for 6 items, such as 'a0'"):
        featx.import_features(tmp_path / "a.npz", folder=tmp_path, name="a-named", network="CLIP B/32")


def test_exports_of_featx_are_read_back(store, tmp_path):
    for suffix in (".npz", ".parquet"):
        path = featx.export_store(store, tmp_path / f"colour{suffix}")
        back = featx.import_features(path, folder=tmp_path, name=suffix[1:])
        assert back.features.tobytes() == store.features.tobytes()
        assert back.ids.tolist() == store.ids.tolist()
        assert back.labels.tolist() == store.labels.tolist()
        assert back.spec.backbone.uri == "imported:featx"
    with pytest.raises(SourceError, match="is a feature store of featx already"):
        featx.import_features(store.path, folder=tmp_path)


def write_local(path):
    with h5py.File(path, "w") as file:
        file["a.jpg/keypoints"], file["a.jpg/descriptors"] = np.zeros((9, 2)), np.zeros((4, 9))


def write_external(path):
    with h5py.File(path.with_name("other.hdf"), "w") as file:
        file["features"] = FEATURES
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = h5py.ExternalLink("other.hdf", "features"), np.zeros((6, 2))


def write_unwritten(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", shape=(6, 4), chunks=(1, 4), dtype="f4")
        file["coords"] = np.zeros((6, 2))


def write_sparse(path):
    with h5py.File(path, "w") as file:
        file.create_group("X").attrs["encoding-type"] = "csr_matrix"
        file["obs/_index"] = ["a"]
        file["obs"].attrs["_index"] = "_index"


def write_cut(n_bytes):
    """Write the first bytes of an array, whatever its name says."""
    file = io.BytesIO()
    np.save(file, FEATURES)
    return lambda path: path.write_bytes(file.getvalue()[:n_bytes])


def write_lists(*rows):
    return lambda path: parquet.write_table(pa.table({"x": pa.array(rows, pa.list_(pa.float32()))}), path)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.h5", write_local, "local features"),
        ("a.h5", write_external, "features is a link to elsewhere"),
        ("a.h5", write_unwritten, "declares values that were never written"),
        ("a.h5", lambda path: path.write_bytes(b"\x89HDF"), "cannot be imported"),
        ("a.h5ad", write_sparse, "is a csr_matrix; save it dense"),
        ("a.npy", lambda path: np.save(path, np.array([{}], object), allow_pickle=True), "cannot be imported"),
        ("a.npy", write_cut(0), r"not an array of NumPy, or cut or damaged at its start .*; copy it again, or write"),
        ("a.npy", write_cut(90), r"not an array of NumPy, or cut or damaged at its start .*; copy it again, or write"),
        ("a.npy", write_cut(180), r"is cut: it declares float32 \(6, 4\), which takes 96 bytes, and holds 52; copy it"),
        ("a.npz", write_cut(180), r"a.npz cannot be imported: it is damaged, cut, or of another .*; copy it again, or"),
        ("a.h5", write_cut(180), r"a.h5 cannot be imported: it is damaged, cut, or of another .*; copy it again, or"),
        ("a.parquet", write_cut(180), r"a.parquet cannot be imported: it is damaged, cut, or .*; copy it again, or"),
        (
            "a.parquet",
            write_lists([1, 2], None),
            r"row 1 \(from 0\) has no list in the column x, where the first ",
        ),
        ("a.parquet", write_lists([1, 2], [3]), r"row 1 \(from 0\) has 1 number in the column x, where the first row "),
        (
            "a.parquet",
            write_lists(None, [3]),
            r"row 0 \(from 0\) has no list in the column x; correct it, or ",
        ),
        ("a.npz", lambda path: np.savez(path, features=FEATURES, ids=np.array([None] * 6)), "ids holds Python objects"),
        ("a.npz", lambda path: np.savez(path, features=FEATURES, ids=list("aabcde")), "two rows have the id 'a'"),
        ("a.npz", lambda path: np.savez(path, other=FEATURES), "call the features features"),
        (
            "a.npz",
            lambda path: np.savez(path, features=FEATURES, X=FEATURES),
            "features and X may both be the features",
        ),
        (
            "a.npz",
            lambda path: np.savez(path, features=FEATURES, y=np.arange(5)),
            r"y has the shape \(5,\), and the fea",
        ),
        ("a.npz", lambda path: np.savez(path, features=FEATURES, y=np.eye(6)), r"save y.argmax\(axis=1\)"),
        ("a.pt", lambda path: path.write_bytes(b""), "may run code"),
        ("a.txt", lambda path: path.write_bytes(b""), "ends in none of"),
        ("gone.npy", lambda _: None, "there is no file or folder"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(name, write, message, tmp_path):
    write(tmp_path / name)
    with pytest.raises(SourceError, match=message):
        featx.import_features(tmp_path / name, folder=tmp_path / "features")
    assert not list(tmp_path.glob("features/*.h5"))


def test_a_file_that_declares_far_more_than_it_holds_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("featx.importing.parts._MOST_BYTES", 1000)
    zeros = np.zeros((1000, 100), np.float32)
    np.savez_compressed(tmp_path / "a.npz", features=zeros)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", data=zeros, compression="gzip")
        file["coords"] = np.zeros((1000, 2))
    for name in ("a.npz", "a.h5"):
        with pytest.raises(SourceError, match=r"declares 400,\d+ bytes and holds"):
            featx.import_features(tmp_path / name, folder=tmp_path / "features")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    np.save(tmp_path / "b.npy", FEATURES[:, :3])
    with pytest.raises(SourceError, match=r"b.npy has the width 3 and .*a.npy has 4"):
        featx.import_features(tmp_path, folder=tmp_path)
    with pytest.raises(UsageError, match="did you mean npy"):
        featx.import_features(tmp_path, folder=tmp_path, format_="npyy")


def test_a_damaged_store_is_repaired_by_another_import(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    store = featx.import_features(tmp_path / "a.npy", folder=tmp_path)
    sound = store.path.read_bytes()
    at = sound.index(FEATURES.tobytes())
    store.path.write_bytes(sound[:at] + b"\0" + sound[at + 1 :])
    with pytest.raises(SourceError, match="import the same files again"):
        featx.repair_store(store.path)
    assert featx.import_features(tmp_path / "a.npy", folder=tmp_path).path.read_bytes() == sound


def test_a_missing_label_of_an_array_is_none(tmp_path):
    np.savez(tmp_path / "a.npz", features=FEATURES, y=[0, 1, np.nan, 0, 1, np.nan])
    store = featx.import_features(tmp_path / "a.npz", folder=tmp_path)
    assert store.labels.tolist() == ["0", "1", "", "0", "1", ""]


class Listener(Reporter):
    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)


def test_splits_of_files_that_are_not_used_are_told(tmp_path):
    listener = Listener()
    np.savez(tmp_path / "a.npz", features=FEATURES, split=["odd", "even"] * 3)
    store = featx.import_features(tmp_path / "a.npz", folder=tmp_path, reporter=listener)
    assert set(store.columns["split"]) == {""}
    assert "the column 'split' is not used as the split; its values are 'odd', 'even'" in listener.said
