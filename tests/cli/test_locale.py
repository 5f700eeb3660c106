import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

C_LOCALE = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no C locale")
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_labels_of_a_table_are_right_in_predictions_in_every_locale(tmp_path, encoding):
    labels = ("B\u00e4r", "Gr\u00f6\u00dfe")
    for at in range(20):
        Image.new("RGB", (8, 8), (at * 10, 200 * (at % 2), 0)).save(tmp_path / f"{at}.png")
    rows = "".join(f"{at}.png,{labels[at % 2]}\n" for at in range(20))
    (tmp_path / "t.csv").write_bytes(f"path,label\n{rows}".encode(encoding))

    def run(*arguments, env):
        featx = Path(sys.executable).with_name("featx")
        done = subprocess.run(
            [featx, *arguments], cwd=tmp_path, env={**os.environ, **env}, capture_output=True, check=True
        )
        return done.stdout

    run("embed", "t.csv", "-b", "colour", env=C_LOCALE)
    run("fit", "--clf", "centroid", "--runs", "runs", env=C_LOCALE)
    (bundle,) = (tmp_path / "runs").glob("*/")
    printed = [run("predict", f"runs/{bundle.name}", "0.png", "1.png", env=env) for env in (C_LOCALE, {})]
    assert printed[0] == printed[1]
    assert [line.split(",")[1] for line in printed[0].decode().splitlines()[1:]] == list(labels)
