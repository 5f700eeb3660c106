import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import featx
from featx import FitOptions, fit
from featx.cli.app import app
from featx.report.curves import GRID, measure_curves
from featx.report.items import find_wrong, list_items
from featx.report.maps import map_store
from featx.report.page import write_report
from featx.results import Predictions, read_predictions


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
    assert not app(["report", str(bundle)], standalone_mode=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"open {bundle / 'report.html'} in a browser"
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


def test_of_too_many_items_mistakes_come_first(run, store, tmp_path, monkeypatch):
    predictions = read_predictions(run.bundle)
    n_wrong = int(find_wrong(predictions).sum())
    monkeypatch.setattr("featx.report.items.MOST_POINTS", n_wrong + 50)
    report = write_report(run, tmp_path / "page.html")
    data = read_data(report.path)
    columns = data["items"]
    assert len(columns["id"]) == len(set(columns["id"])) == report.n_items == n_wrong + 50
    assert sum(a != b for a, b in zip(columns["label"], columns["predicted"], strict=True)) == n_wrong
    labels = dict(zip(store.ids, store.labels, strict=True))
    assert [data["classes"][label] for label in columns["label"]] == [labels[name] for name in columns["id"]]
    assert sum(cell["n"] for cell in data["cells"]) == 400
    (note,) = (one for one in report.notes if "numbers are of all" in one)
    assert f"{n_wrong + 50} of 400 items: all {n_wrong} mistakes, and others at random" in note


def test_so_many_tested_items_that_not_all_are_shown():
    n = 25_000
    labels, predicted = ["a"] * n, ["b"] * 100 + ["a"] * (n - 100)
    names = [f"{number}.png" for number in range(n)]
    items = list_items(None, Predictions(names, labels, predicted, ["a", "b"], np.full((n, 2), 0.5)))
    assert (len(items), items.sampled_of) == (20_000, n)
    assert list(items.tested[:100]) == list(range(100))
    assert items.ids == [names[row] for row in items.tested]


def test_the_map_is_of_the_mean_of_views(digits, tmp_path):
    made = featx.embed(digits / "0", "colour", views=2, augmentation="flip", folder=tmp_path).store
    columns = read_data(write_report(made, tmp_path / "page.html", most_pictures=0).path)["items"]
    found = map_store(made)
    assert columns["id"] == list(found.ids)
    unit = (found.points - found.points.min(axis=0)) / np.ptp(found.points, axis=0)
    np.testing.assert_allclose(np.transpose([columns["x"], columns["y"]]), unit, atol=1e-3)


def test_what_an_audit_found_is_shown_and_damage_is_said_once(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["id,kind,score,suggestion,group,detail", f"{store.ids[3]},outlier,2.5,check,,far from all"]
    shortcut = {"what": "file size", "accuracy": 0.4, "low": 0.3, "high": 0.5, "baseline": 0.1, "strong": True}
    folder = Path("audit") / store.path.stem
    folder.mkdir(parents=True)
    (folder / "audit.csv").write_text("\n".join(rows))
    about = {"store": str(store.path), "items": len(store), "shortcuts": [shortcut]}
    (folder / "audit.json").write_text(json.dumps(about))
    report = write_report(store, "page.html", most_pictures=0)
    text, data = report.path.read_text(), read_data(report.path)
    assert [data["items"]["id"][at] for at in data["lists"][-1]] == [store.ids[3]]
    assert re.search("file size</td>.*?0.400 \\[0.300, 0.500\\]</td>.*?yes</td>", text)
    for name, damage in (("audit.csv", "\n".join([*rows, "a,b"])), ("audit.json", '{"shortcuts": [{"what": "x"}]}')):
        before = (folder / name).read_text()
        (folder / name).write_text(damage)
        notes = write_report(store, "page.html", most_pictures=0).notes
        assert sum(f"the findings in {folder} are left out" in note for note in notes) == 1
        assert Path("page.html").read_text().count("are left out") == 1
        (folder / name).write_text(before)
    for other in ({"store": "other/colour.h5"}, {"items": 5}):
        (folder / "audit.json").write_text(json.dumps(about | other))
        (note,) = (one for one in write_report(store, "page.html", most_pictures=0).notes if "audit" in one)
        assert re.search(r"are left out, since they are of \d+ items of .*colour.h5, and .*colour.h5 has 400", note)


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


@pytest.fixture(scope="module", params=[2, 10, 100])
def opened(request, browser, digits, store, report, tmp_path_factory):
    """The page of a run with so many classes, opened from disk, and its data."""
    path, names = report.path, sorted(set(store.labels))
    if request.param != len(names):
        folder = tmp_path_factory.mktemp("relabelled")
        numbers = [names.index(label) * 10 + at % 10 for at, label in enumerate(store.labels)]
        pairs = zip(store.ids, numbers, strict=True)
        rows = [f"{digits / name},class {number % request.param:02}" for name, number in pairs]
        (folder / "labels.csv").write_text("\n".join(["path,label", *rows]))
        made = featx.embed(folder / "labels.csv", "colour", folder=folder).store
        path = write_report(fit(made, "centroid", options=FitOptions(cv=2, folder=folder / "runs"))).path
    browser.events.clear()
    browser.call("Page.navigate", url=Path(path).resolve().as_uri())
    browser.wait("document.documentElement.dataset.ready === 'yes'")
    data = read_data(path)
    assert len(data["classes"]) == request.param
    yield data
    requested = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requested
    assert not [url for url in requested if not url.startswith(("file:", "data:", "blob:"))]
    logged = [e["params"] for e in browser.events if e["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}]
    said = [e["params"] for e in browser.events if e["method"] == "Runtime.consoleAPICalled"]
    assert not logged
    assert not [one for one in said if one["type"] == "error"]


def count_shown(browser):
    """Count what the page says, what is on the grid, and what is marked on the map."""
    said = browser.evaluate("document.getElementById('status').textContent").split(" of ")[0]
    return int(said), *browser.evaluate(
        "[document.querySelectorAll('#grid figure').length, views.map.data('chosen').length]"
    )


@pytest.mark.slow
def test_a_click_on_a_cell_changes_the_map_and_the_pictures(browser, opened):
    for chart, mark in (("roc", "line"), ("pr", "line"), ("reliability", "symbol")):
        assert browser.evaluate(f"document.querySelectorAll('#{chart} .mark-{mark} path').length"), chart
    shown = browser.evaluate(
        "[...document.querySelectorAll('#confusion .mark-rect path')].map((one) => {"
        "const box = one.getBoundingClientRect(), { t, p, n } = one.__data__.datum;"
        "return { t, p, n, place: [box.x + box.width / 2, box.y + box.height / 2] }; })"
    )
    whole = {(one["t"], one["p"], one["n"]) for one in opened["cells"] if {one["t"], one["p"]} <= {*opened["shown"]}}
    assert {(one["t"], one["p"], one["n"]) for one in shown} == whole
    named = browser.evaluate(
        "[...document.querySelectorAll('#confusion .role-axis-label text')].filter((one) => "
        "one.textContent && getComputedStyle(one).opacity !== '0').length"
    )
    assert named == 2 * len(opened["shown"])
    wanted = max((one for one in shown if one["t"] != one["p"]), key=lambda one: one["n"])
    browser.click(*wanted["place"])
    browser.wait(f"document.getElementById('true').value === '{wanted['t']}'")
    assert count_shown(browser) == (wanted["n"], min(60, wanted["n"]), wanted["n"])
    assert browser.evaluate("views.map.signal('dim')") is True
    browser.evaluate(
        "(() => { const order = document.getElementById('order'); order.value = 'unsure';"
        "order.dispatchEvent(new Event('change')); })()"
    )
    assert browser.evaluate("document.getElementById('predicted').value") == str(wanted["p"])


@pytest.mark.slow
def test_a_lasso_on_the_map_changes_the_pictures(browser, opened):
    """A triangle, which no rectangle is, around the points whose places on the screen are inside it."""
    browser.evaluate("document.getElementById('map').scrollIntoView({ block: 'center' })")
    left, top, width, height = browser.evaluate(
        "(() => { const box = document.querySelector('#map canvas').getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]; })()"
    )
    places = np.array(
        browser.evaluate(
            "views.map.data('points').map(({ x, y }) => ['x', 'y'].map((name, k) => views.map.scale(name)([x, y][k])"
            " + views.map.origin()[k] + views.map.padding().left))"
        )
    )
    # Vega finds a point where these places say it is.
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + places[0, 0], y=top + places[0, 1])
    browser.wait("!document.getElementById('tip').hidden")
    named = browser.evaluate("document.getElementById('tip').lastChild.textContent")
    near = np.flatnonzero(np.hypot(*(places - places[0]).T) < 8)
    assert named in {opened["items"]["id"][at] for at in near}

    corners = [(2, 2), (width - 2, 2), (2, height - 2)]
    line = [np.add(a, np.subtract(b, a) * share) for a, b in itertools.pairwise(corners) for share in (0, 0.5, 1)]
    for number, (x, y) in enumerate([*line, line[-1]]):
        kind = "mousePressed" if not number else "mouseReleased" if number == len(line) else "mouseMoved"
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", type=kind, x=left + x, y=top + y, **held)
    browser.wait("document.getElementById('status').textContent.includes('lasso')")
    share = (places - 2) / np.subtract((width, height), 4)
    n_inside = int((share.sum(axis=1) < 1).sum())
    assert 0 < n_inside < len(places)
    assert count_shown(browser) == (n_inside, min(60, n_inside), n_inside)
    assert browser.evaluate("document.querySelector('#lasso polygon').points.length") >= 3
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Escape", code="Escape")
    browser.wait("document.getElementById('status').textContent.includes('all items')")
    assert count_shown(browser) == (400, 60, 0)
    assert browser.evaluate("document.querySelector('#lasso polygon').points.length") == 0
