import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import featx
from featx import FitOptions, fit
from featx.cli.app import app
from featx.report.curves import GRID, measure_curves
from featx.report.page import write_report


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    return fit(store, "centroid", options=FitOptions(cv=3, folder=tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    return write_report(run, tmp_path_factory.mktemp("reports") / "page.html")


def read_data(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_a_report_holds_each_item_with_its_prediction_and_picture(run, report):
    data, frame = read_data(report.path), run.predictions
    columns = data["items"]
    assert report.n_items == report.n_pictures == len(frame) == 400
    assert sorted(columns["id"]) == sorted(frame["id"])
    by_id = frame.set_index("id")
    names = data["classes"]
    for at in range(0, 400, 37):
        row = by_id.loc[columns["id"][at]]
        assert (names[columns["label"][at]], names[columns["predicted"][at]]) == (row["label"], row["predicted"])
        assert columns["probability"][at] == pytest.approx(row["probability"], abs=1e-4)
    assert sum(cell["n"] for cell in data["cells"]) == 400
    assert all(columns["picture"])
    assert set(data["charts"]) == {"map", "confusion", "roc", "pr", "reliability"}


def test_a_run_shows_its_report(run):
    shown = run.report()
    assert shown.path == run.bundle / "report.html"
    assert "srcdoc" in shown._repr_html_()


def test_the_verb_writes_it_without_the_pictures_and_says_so_once(run, tmp_path, capsys):
    bundle = tmp_path / "bundle"
    shutil.copytree(run.bundle, bundle)
    about = json.loads((bundle / "bundle.json").read_text())
    about["record"]["store"] = {"path": "gone.h5", "source": "gone"}
    (bundle / "bundle.json").write_text(json.dumps(about))
    assert not app(["report", str(bundle), "--json"], standalone_mode=False)
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert (values["items"], values["pictures"]) == (400, 0)
    assert printed.err.count("no pictures are shown") == 1
    text = (bundle / "report.html").read_text()
    assert "no pictures are shown" in text
    assert "there is no map" in text


def test_a_store_has_a_report_of_its_own(store, tmp_path):
    report = write_report(store, tmp_path / "store.html", most_pictures=10)
    data = read_data(report.path)
    assert sum(map(bool, data["items"]["picture"])) == report.n_pictures == 10
    assert set(data["charts"]) == {"map"}


def test_names_cannot_leave_their_place(tmp_path):
    odd = ["</script><script>alert(1)</script>".replace("/", "_"), "a\"b'&c", "\u05d0\u202e" + "x" * 60]
    rng = np.random.default_rng(0)
    from runs import draw

    for number in range(24):
        draw(tmp_path / "photos" / odd[number % 3] / f"{'<!--' * 3}{number}.png", int(rng.integers(1e6)))
    made = featx.embed(tmp_path / "photos", "colour", folder=tmp_path / "features")
    text = write_report(
        fit(made.store, "centroid", options=FitOptions(cv=2, folder=tmp_path / "runs"))
    ).path.read_text()
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>")
    page = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", text, flags=re.DOTALL)
    assert "<!--" not in page


def test_curves_are_those_of_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    probabilities, targets = rng.dirichlet(np.ones(3), 200).round(2), rng.integers(0, 2, 200)
    curves = measure_curves(probabilities, targets)
    for number in range(2):
        own, scores = targets == number, probabilities[:, number]
        assert curves.roc_aucs[number] == pytest.approx(roc_auc_score(own, scores))
        assert curves.average_precisions[number] == pytest.approx(average_precision_score(own, scores))
        false, true, _ = roc_curve(own, scores, drop_intermediate=False)
        for at in (50, 80, 95, 100):
            best = true[false <= 1 - GRID[at] + 1e-9].max()
            assert curves.sensitivities[number, at] == pytest.approx(best)
            chosen = scores >= curves.thresholds[number, at]
            assert chosen[own].mean() == pytest.approx(best)
    assert np.isnan(curves.roc_aucs[2])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.mark.slow
def test_a_click_on_a_cell_changes_the_map_and_the_pictures(browser, report):
    browser.events.clear()
    browser.call("Page.navigate", url=Path(report.path).resolve().as_uri())
    browser.wait("document.documentElement.dataset.ready === 'yes'")
    for chart, mark in (("roc", "line"), ("pr", "line"), ("reliability", "symbol")):
        assert browser.evaluate(f"document.querySelectorAll('#{chart} .mark-{mark} path').length"), chart
    before = browser.evaluate("document.getElementById('status').textContent")
    wanted = max((one for one in read_data(report.path)["cells"] if one["t"] != one["p"]), key=lambda one: one["n"])
    place = browser.evaluate(
        "(() => { const mark = [...document.querySelectorAll('#confusion .mark-rect path')]"
        f".find((one) => one.__data__.datum.t === {wanted['t']} && one.__data__.datum.p === {wanted['p']});"
        "const box = mark.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })()"
    )
    browser.click(*place)
    browser.wait(f"document.getElementById('status').textContent !== {json.dumps(before)}")
    assert browser.evaluate("document.querySelectorAll('#grid figure').length") == min(60, wanted["n"])
    assert browser.evaluate("views.map.data('chosen').length") == wanted["n"]
    assert browser.evaluate("views.map.signal('dim')") is True
    requested = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requested
    assert not [url for url in requested if not url.startswith(("file:", "data:", "blob:"))]
    logged = [e["params"] for e in browser.events if e["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}]
    said = [e["params"] for e in browser.events if e["method"] == "Runtime.consoleAPICalled"]
    assert not logged
    assert not [one for one in said if one["type"] == "error"]
