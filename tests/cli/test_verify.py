import json
from pathlib import Path

import pytest

from featx import FeatureStore

STORE = Path("features/colour.h5")


@pytest.fixture
def embedded(featx_command, digits):
    assert featx_command("embed", digits, "--backbone", "colour").code == 0
    return FeatureStore(STORE)


@pytest.fixture
def damaged(embedded):
    """A byte of three rows, in the first block and the last."""
    data = bytearray(STORE.read_bytes())
    for row in embedded.features[[7, 8, 399]]:
        data[data.index(row.tobytes())] ^= 1
    STORE.unlink()
    STORE.write_bytes(data)
    return embedded


def test_a_sound_store(featx_command, embedded):
    for arguments in ((), (STORE,)):
        result = featx_command("verify", *arguments)
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith("features/colour.h5: sound; 400 items, ")
    assert featx_command("repair", STORE).out == "features/colour.h5: sound; nothing to repair\n"


def test_damage_is_shown_and_ends_with_1(featx_command, damaged):
    result = featx_command("verify", STORE)
    assert result.code == 1
    header, *rows = result.out.splitlines()
    assert header.split() == ["damaged", "first", "row", "last", "row", "items"]
    assert all(row.startswith("/features") for row in rows)
    assert f"0/{Path(damaged.ids[0]).name}" in rows[0]
    assert "error: features/colour.h5 is damaged; run `featx repair features/colour.h5`" in result.err
    values = json.loads(featx_command("verify", STORE, "--json").out)
    assert values["sound"] is False
    assert values["lost"] == sum(len(found["items"]) for found in values["damage"])


def test_repair_brings_the_store_back(featx_command, damaged):
    result = featx_command("repair", STORE)
    assert result.code == 0
    assert result.out.endswith(" embedded again -> features/colour.h5\n")
    assert featx_command("verify", STORE).code == 0
    assert FeatureStore(STORE).features.tobytes() == damaged.features.tobytes()


def test_dropping_leaves_fewer(featx_command, damaged):
    lost = json.loads(featx_command("verify", STORE, "--json").out)["lost"]
    assert 3 <= lost < 400
    values = json.loads(featx_command("repair", STORE, "--drop", "--json").out)
    assert values["lost"] == lost
    assert len(FeatureStore(STORE)) == 400 - lost
    assert json.loads(featx_command("embed", Path(damaged.source), "--backbone", "colour", "--json").out)["new"] == lost


def test_a_missing_store_is_refused(featx_command):
    for arguments in (("verify",), ("verify", "gone.h5"), ("repair", "gone.h5")):
        result = featx_command(*arguments)
        assert result.code == 1
        assert result.err.count("\n") == 1
        assert "store" in result.err
