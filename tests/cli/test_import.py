"""`featx import`, and the verbs that need no pixels after it, as a user types them."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import featx
from featx.errors import BundleError


@pytest.mark.slow
def test_digits_are_imported_fitted_compared_and_reported(featx_command, tmp_path):
    digits = load_digits(n_class=3)
    features = digits.data[:120].astype(np.float32)
    labels = [f"digit {target}" for target in digits.target[:120]]
    np.save(tmp_path / "pixels.npy", features)
    np.savez(tmp_path / "half.npz", features=features[:, ::2], ids=[f"pixels:{row}" for row in range(120)])
    table = pd.DataFrame({"id": [f"pixels:{row}" for row in range(120)], "label": labels})
    table.to_csv(tmp_path / "labels.csv", index=False)
    said = featx_command("import", "pixels.npy", "--labels", "labels.csv")
    assert said.out.strip() == "120 items of 64 features from npy -> features/pixels.h5"
    values = json.loads(featx_command("import", "half.npz", "--labels", "labels.csv", "--json").out)
    assert (values["items"], values["unlabelled"], values["dim"]) == (120, 0, 32)
    assert "imported     files 1, format npy" in featx_command("info", "features/pixels.h5").out
    fitted = featx_command("fit", "features/pixels.h5", "--clf", "centroid", "--calibration", "none")
    assert "the bundle cannot predict images" in fitted.err
    table = featx_command("compare", "features/pixels.h5", "features/half.h5", "--clf", "centroid")
    assert "pixels" in table.out
    featx_command("report", "features/pixels.h5")
    featx_command("errors", "latest")
    audit = featx_command("audit", "features/pixels.h5")
    assert "near-copies, poor pictures and shortcuts were not looked for" in audit.err
    assert "pixels:3" in featx_command("similar", "features/pixels.h5", "pixels:3").out
    for words in (["predict", "latest", "a.png"], ["export", "latest", "--to", "openvino"]):
        result = featx_command(*words)
        assert result.code == 1
        assert "does not know the network" in result.err
    (bundle,) = tmp_path.glob("runs/*-centroid-pixels")
    assert "it predicts no images" in (bundle / "index.html").read_text()
    with pytest.raises(BundleError, match="the features were imported from npy"):
        featx.Predictor.load(bundle)
