"""`featx info` of a bundle: whatever an untrusted one holds, what is shown is short and there is no traceback."""

import copy
import json
import shutil

import pytest
from bundle_files import rewrite, sign

VALUES = {
    "null": None,
    "number": -1.5,
    "large": 2**80,
    "text": "x\n\x1b[31m",
    "list": [1],
    "dict": {"a": [{}]},
    "megabyte": "x" * 2**20,
    "deep": json.loads('{"a":' * 900 + "1" + "}" * 900),
}


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    return shutil.copytree(digits_bundle, tmp_path / "bundle")


def list_places(value, path=()):
    """List where the values of a JSON document are; of a list, only the first."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, child in children:
        yield from list_places(child, (*path, name))


def put(values, path, value):
    changed = copy.deepcopy(values)
    entry = changed
    for name in path[:-1]:
        entry = entry[name]
    entry[path[-1]] = value
    return changed


def check_shown(featx_command):
    shown = ""
    for flags in ((), ("--json",)):
        result = featx_command("info", "bundle", *flags)
        if result.code:
            assert result.err.startswith("error: bundle")
            assert len(result.err.splitlines()) == 1
        else:
            assert len(result.out) < 50_000 or flags == ("--json",)
            assert "\x1b" not in result.out
        shown = shown or result.out
    return shown


@pytest.mark.parametrize("kind", VALUES)
def test_a_record_or_metrics_of_any_kind_are_shown(featx_command, digits_bundle, bundle, kind):
    about, metrics = (json.loads((digits_bundle / name).read_text()) for name in ("bundle.json", "metrics.json"))
    shown = {name: about["record"][name] for name in ("store", "created_with")}
    for path in [("record",), *(("record", *path) for path in list_places(shown) if path)]:
        (bundle / "bundle.json").write_text(json.dumps(put(about, path, VALUES[kind])))
        check_shown(featx_command)
    (bundle / "bundle.json").write_text(json.dumps(put(about, ("head", "params"), {"x": VALUES[kind]})))
    check_shown(featx_command)
    (bundle / "bundle.json").write_text(json.dumps(about))
    for path in list_places({name: metrics[name] for name in ("test_name", "test")}):
        changed = put(metrics, path, VALUES[kind]) if path else {}
        (bundle / "metrics.json").write_text(json.dumps(changed))
        sign(bundle)
        check_shown(featx_command)


def test_what_is_not_recorded_is_said_to_be(featx_command, digits_bundle, bundle):
    metrics = json.loads((digits_bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps(put(metrics, ("test", "accuracy"), None)))
    rewrite(bundle, record=[])
    sign(bundle)
    lines = featx_command("info", "bundle").out.splitlines()
    assert "test         accuracy - on 87 items (test)" in lines
    assert "store        not recorded" in lines
    assert "made with    not recorded" in lines
    (bundle / "metrics.json").write_text("{}")
    sign(bundle)
    assert "test         not recorded" in featx_command("info", "bundle").out.splitlines()
    assert json.loads(featx_command("info", "bundle", "--json").out)["test"] is None
