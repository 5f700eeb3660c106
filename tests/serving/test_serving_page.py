import json
import shutil

import pytest

pytestmark = pytest.mark.slow


def drop(browser, *paths):
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.call("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)


def read_cards(browser):
    script = (
        "JSON.stringify([...document.querySelectorAll('article')].map((card) => ["
        "card.querySelector('.file').textContent, card.querySelector('h2').textContent,"
        "card.querySelector('.badges').textContent, card.className,"
        "card.querySelectorAll('tbody tr').length]))"
    )
    return {name: values for name, *values in json.loads(browser.evaluate(script))}


def test_dropped_files_are_classified_or_refused_with_the_reason(browser, server, digits, tmp_path):
    good, bad = tmp_path / "seven.png", tmp_path / "broken.jpg"
    shutil.copy(min((digits / "7").glob("*")), good)
    bad.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    browser.events.clear()
    browser.call("Page.navigate", url=server.url)
    browser.wait("document.documentElement.dataset.ready === 'yes'")
    drop(browser, good, bad)
    browser.wait("document.querySelectorAll('article:not(.waiting)').length === 2")
    cards = read_cards(browser)
    _, expected = server.request("POST", "/predict", good.read_bytes(), content_type="image/png")
    (prediction,) = expected["predictions"]
    share = f"{100 * prediction['probability']:.1f} %"
    assert prediction["label"] in cards["seven.png"][0]
    assert share in cards["seven.png"][0]
    assert cards["seven.png"][3] == 5
    heat = "card.querySelector('.heat').getContext('2d').getImageData(0, 0, 8, 8).data.some((value) => value > 0)"
    shown = f"[...document.querySelectorAll('article')].map((card) => [{heat}, card.querySelectorAll('figure').length])"
    assert json.loads(browser.evaluate(f"JSON.stringify({shown})")) == [[False, 0], [True, 5]]
    assert cards["broken.jpg"][0] == "Not classified"
    assert "truncated or damaged JPEG" in cards["broken.jpg"][1]
    browser.evaluate(
        "(() => { const one = document.getElementById('threshold'); one.value = 100;"
        "one.dispatchEvent(new Event('input')); })()"
    )
    assert "uncertain" in read_cards(browser)["seven.png"][2]
    rows = browser.evaluate("formatCsv()").split("\r\n")
    assert rows[1].startswith('"seven.png","uncertain",')
    assert "truncated or damaged" in rows[2]
    check_quiet(browser, server)


def test_a_busy_server_is_asked_again_a_few_times_and_another_error_is_shown(browser, server, digits):
    picture = min((digits / "7").glob("*"))
    for status, body, tries, reason in (
        (503, '{"error": "the queue is full"}', 4, "the queue is full"),
        (502, "<h1>Bad gateway</h1>", 1, "the server answered with status 502"),
    ):
        browser.call("Page.navigate", url=server.url)
        browser.wait("document.documentElement.dataset.ready === 'yes'")
        answer = f"new Response({json.dumps(body)}, {{status: {status}, headers: {{'Retry-After': '0.05'}}}})"
        browser.evaluate(f"window.asked = 0; window.fetch = async () => {{ window.asked += 1; return {answer}; }}")
        drop(browser, picture)
        browser.wait("document.querySelectorAll('article.failed').length === 1")
        assert browser.evaluate("window.asked") == tries
        assert read_cards(browser)[picture.name][1] == reason


def check_quiet(browser, server):
    """Nothing was said in the console, and nothing was requested elsewhere."""
    requested = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requested
    assert not [url for url in requested if not url.startswith((server.url, "data:"))]
    logged = [e["params"] for e in browser.events if e["method"] in {"Runtime.exceptionThrown", "Log.entryAdded"}]
    # The console names each answer that is not 200; that of the broken file is meant.
    assert not [one for one in logged if "status of 422" not in json.dumps(one)]
    assert not [e for e in browser.events if e["method"] == "Runtime.consoleAPICalled"]
