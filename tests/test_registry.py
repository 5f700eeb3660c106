import importlib

import pytest

from featx import registry
from featx.errors import UnknownNameError
from featx.registry import BACKBONES, HEADS, find_closest, list_names, make_unknown_name_error, resolve

GROUP = "featx.tested"
TABLE = {"ordered": "collections:OrderedDict", "join": "os:path.join"}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package whose entry points name an object, and one that a built-in name hides."""
    about = tmp_path / "somebody-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nTheirs = somebody:Outer.inner\nordered = somebody:nothing\n")
    (tmp_path / "somebody.py").write_text("class Outer:\n    inner = 'theirs'\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    registry._read_entry_points.cache_clear()
    yield
    registry._read_entry_points.cache_clear()


@pytest.mark.parametrize("name", ["ordered", "Ordered", "ORDERED"])
def test_names_are_found_in_any_case(name):
    assert resolve("thing", name, TABLE, GROUP).__name__ == "OrderedDict"


def test_an_attribute_may_be_nested():
    assert resolve("thing", "join", TABLE, GROUP)("a", "b") == "a/b"


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("name", ["Theirs", "theirs"])
def test_names_of_other_packages_are_found(name):
    assert resolve("thing", name, TABLE, GROUP) == "theirs"


@pytest.mark.usefixtures("plugin")
def test_built_in_names_come_first_and_cannot_be_replaced():
    assert list_names(TABLE, GROUP) == ["ordered", "join", "theirs"]
    assert resolve("thing", "ordered", TABLE, GROUP).__name__ == "OrderedDict"


@pytest.mark.usefixtures("plugin")
def test_an_unknown_name_lists_the_known_ones_with_the_closest_first():
    with pytest.raises(UnknownNameError) as caught:
        resolve("thing", "joint", TABLE, GROUP)
    assert str(caught.value) == "no thing is called 'joint'; did you mean join? Known: join, ordered, theirs"
    assert isinstance(caught.value, LookupError)


def test_a_name_that_resembles_none_only_lists_them():
    error = make_unknown_name_error("head", "xyzzy", ["knn", "lda"])
    assert str(error) == "no head is called 'xyzzy'; known: knn, lda"


@pytest.mark.parametrize(
    ("name", "closest"),
    [("incepton3", "InceptionV3"), ("resnet51", "ResNet50"), ("RESNET50V", "ResNet50V2"), ("mobilnet", "MobileNet")],
)
def test_the_closest_name_comes_first(name, closest):
    known = ["InceptionV3", "MobileNet", "MobileNetV2", "ResNet50", "ResNet50V2", "VGG16"]
    assert find_closest(name, known)[0] == closest


def test_the_message_stays_on_one_line():
    assert "\n" not in str(make_unknown_name_error("head", "two\nlines", HEADS))


def test_every_string_points_at_a_module_that_exists():
    for target in [*BACKBONES.values(), *HEADS.values()]:
        module, _, attribute = target.partition(":")
        assert importlib.util.find_spec(module) is not None
        assert attribute.isidentifier()
