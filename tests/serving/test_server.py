import asyncio
import base64
import concurrent.futures
import http.client
import shutil
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from server_process import ServerProcess, make_form, read_status

import featx
from featx import Predictor
from featx.errors import MissingExtraError, UsageError
from featx.serving.models import Models
from featx.serving.network import ServedPredictor
from featx.serving.options import ServeOptions

BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def files(digits):
    return [min(folder.iterdir()) for folder in sorted(digits.iterdir())][:5]


@pytest.fixture(scope="module")
def expected(bundle, files):
    return list(Predictor.load(bundle).predict([path.read_bytes() for path in files]))


def test_all_forms_of_a_request_have_the_answers_of_predict(server, files, expected):
    datas = [path.read_bytes() for path in files]
    body, kind = make_form(*(("images", path.name, data) for path, data in zip(files, datas, strict=True)))
    status, form = server.request("POST", "/predict", body, content_type=kind)
    assert (status, form["model"]) == (200, "digits")
    assert [row["path"] for row in form["predictions"]] == [path.name for path in files]
    encoded = ",".join(f'"{base64.b64encode(data).decode()}"' for data in datas)
    _, text = server.request("POST", "/predict", f'{{"images": [{encoded}]}}', content_type="application/json")
    single = [server.request("POST", "/predict", data, content_type="image/png")[1]["predictions"][0] for data in datas]
    for rows in (form["predictions"], text["predictions"], single):
        for row, wanted in zip(rows, expected, strict=True):
            assert row["label"] == wanted.label
            np.testing.assert_allclose(list(row["probabilities"].values()), wanted.probabilities, rtol=1e-5)


def test_a_bad_picture_gets_its_reason_and_the_others_are_answered(server, files, expected):
    good = ("images", "good.png", files[0].read_bytes())
    body, kind = make_form(good, ("images", "bad.jpg", b"<html>"), ("top", None, b"2"))
    status, found = server.request("POST", "/predict", body, content_type=kind)
    first, second = found["predictions"]
    assert status == 200
    assert next(one["label"] for one in first["top"]) == first["label"] == expected[0].label
    assert len(first["top"]) == 2
    assert "not an image" in second["error"]
    assert server.request("POST", "/predict", b"<html>", content_type="image/jpeg")[0] == 422


def test_explanations_are_those_of_the_library(server, bundle, files):
    data = files[1].read_bytes()
    (wanted,) = Predictor.load(bundle).explain([data])
    _, found = server.request("POST", "/predict?explain=true", data, content_type="image/png")
    (shown,) = found["predictions"]
    assert (shown["label"], shown["set"]) == (wanted.label, list(wanted.labels))
    assert list(shown) == list(wanted.to_row(tuple("0123456789")))  # what the command prints
    assert shown["heat_box"] == list(wanted.heat_box) == [0, 0, 1, 1]
    assert shown["note"] == wanted.note
    assert shown["unfamiliarity"] == pytest.approx(wanted.unfamiliarity)
    assert [one["item"] for one in shown["neighbours"]] == [one.item for one in wanted.neighbours]
    np.testing.assert_allclose(shown["heat"], wanted.heat, atol=2e-3)
    assert not [key for one in shown["neighbours"] for key in one if key in {"path", "sha256", "jpeg"}]
    assert server.request("POST", "/predict?explain=true", b"<html>", content_type="image/png")[0] == 422


def test_the_triton_client_works_unmodified(server, bundle, files, expected):
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", bundle.name)
    assert client.get_model_metadata("digits")["outputs"][0]["shape"] == [-1, 10]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    wanted = np.stack([one.probabilities for one in expected])
    encoded = np.array([path.read_bytes() for path in files], object)
    for values, kind, is_binary in ((pixels, "UINT8", True), (pixels, "UINT8", False), (encoded, "BYTES", True)):
        tensor = triton.InferInput("images", values.shape, kind)
        tensor.set_data_from_numpy(values, binary_data=is_binary)
        for answer in (
            client.infer("digits", [tensor], request_id="one"),
            client.async_infer("digits", [tensor], request_id="one").get_result(),
        ):
            np.testing.assert_allclose(answer.as_numpy("probabilities"), wanted, rtol=1e-5)
            assert [label.decode() for label in answer.as_numpy("labels")] == [one.label for one in expected]
            assert answer.get_response()["id"] == "one"
        only = triton.InferRequestedOutput("labels", binary_data=False)
        answer = client.infer("digits", [tensor], outputs=[only])
        assert answer.as_numpy("labels").tolist() == [one.label for one in expected]
        assert answer.as_numpy("probabilities") is None
    with pytest.raises(triton.InferenceServerException, match="there is no model 'flowers'"):
        client.infer("flowers", [tensor])
    client.close()


def test_it_describes_and_counts_itself(server):
    document = server.request("GET", "/openapi.json")[1]
    assert {"/predict", "/v2/models/{name}/infer", "/metrics", "/readyz"} <= set(document["paths"])
    assert server.request("GET", "/models")[1]["models"][0]["classes"] == [str(digit) for digit in range(10)]
    text = server.request("GET", "/metrics")[1].decode()
    assert 'featx_images_total{model="digits",outcome="answered"}' in text
    assert "featx_queue_images 0.0" in text
    log = server.read_log()
    assert '"path": "/predict", "status": 200' in log
    assert "good.png" not in log


def test_what_reads_answers_head_as_get_without_a_body(server):
    model = "/v2/models/digits"
    health = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
    for path in (*health, "/models", "/metrics", "/v2", model, f"{model}/ready"):
        assert server.request("GET", path)[0] == 200
        with server.open() as connection:
            connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert not body


def test_a_number_of_thousands_of_digits_gets_a_clear_reason(server):
    body = '{"top": ' + "1" * 5000 + "}"
    status, found = server.request("POST", "/predict", body, content_type="application/json")
    assert (status, found["error"]) == (400, "the JSON has a number of thousands of digits; no field takes one")
    status, found = server.request("POST", "/predict", '{"images": NaN}', content_type="application/json")
    assert (status, found["error"]) == (400, "the body is not JSON (NaN is not a JSON value)")


def test_the_library_serves_in_the_main_thread_only(bundle):
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="in the main thread"):
        pool.submit(featx.serve, bundle).result()


def test_a_missing_package_is_named_with_the_extra(bundle, monkeypatch):
    monkeypatch.delitem(sys.modules, "featx.serving.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"needs uvicorn, which is not installed; run pip install"):
        featx.serve(bundle)


def test_the_queue_is_bounded_and_no_request_is_lost(bundle, files):
    body, kind = make_form(*(("images", path.name, path.read_bytes()) for path in files))
    seen = []

    def ask(server):
        for _ in range(200):
            status, found = server.request("POST", "/predict", body, content_type=kind)
            seen.append(status)
            if status == 200:
                return len(found["predictions"])
            assert "try again" in found["error"]
            time.sleep(0.02)
        return 0

    with ServerProcess(bundle, "--queue", "6") as server, concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda _: ask(server), range(96))) == [5] * 96
        assert set(seen) == {200, 503}
        assert b"featx_queue_images 0.0" in server.request("GET", "/metrics")[1]
        assert server.request("GET", "/models")[1]["models"][0]["max_images"] == 6
        assert "a request may have 6 images, as many as may wait; --queue allows more" in server.read_log()
        more, _ = make_form(*[("images", "a.png", b"x")] * 7)  # could never be admitted
        assert server.request("POST", "/predict", more, content_type=kind)[0] == 413
        assert server.stop() == 0


def test_a_new_bundle_is_loaded_and_a_stop_answers_what_was_sent(bundle, files, tmp_path):
    runs = tmp_path / "runs"
    for name in ("first", "second", "third"):
        shutil.copytree(bundle, runs / name)
    (runs / "latest").write_text("first\n")
    data, seen, go_on = files[0].read_bytes(), [], threading.Event()
    with ServerProcess(runs / "latest", "--token-file", write(tmp_path / "token", "secret\nother\n")) as server:

        def ask():
            connection = http.client.HTTPConnection("localhost", server.port, timeout=20)
            while not go_on.is_set():
                connection.request(
                    "POST", "/predict?top=1", data, {"Content-Type": BINARY, "Authorization": "Bearer secret"}
                )
                answer = connection.getresponse()
                seen.append((answer.status, answer.read().partition(b'"version": "')[2].partition(b'"')[0].decode()))
            connection.close()

        def wait_for(version):
            for _ in range(600):
                if seen and seen[-1][1] == version:
                    return
                time.sleep(0.02)
            pytest.fail(f"{version} never answered: {seen[-1:]}{server.read_log()}")

        assert server.request("POST", "/predict", data, content_type=BINARY)[0] == 401
        assert server.request("GET", "/readyz")[0] == 200
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            wait_for("first")
            (runs / "latest").write_text("second\n")
            server.process.send_signal(signal.SIGHUP)
            wait_for("second")
            (runs / "second" / "head.npz").write_bytes(b"damaged")  # the one in use, which is loaded already
            server.process.send_signal(signal.SIGHUP)
            (runs / "latest").write_text("third\n")  # and this one is found without a signal
            wait_for("third")
            go_on.set()
            for one in asking:
                one.result()
        assert {status for status, _ in seen} == {200}
        assert {version for _, version in seen} == {"first", "second", "third"}
        check_stop(server, data)


def test_whatever_is_wrong_with_a_new_bundle_the_old_one_answers_and_it_is_said_once(
    bundle, tmp_path, monkeypatch, caplog
):
    runs = tmp_path / "runs"
    for name in ("first", "second"):
        shutil.copytree(bundle, runs / name)
    (runs / "latest").write_text("first\n")
    models = Models({"latest": str(runs / "latest")}, ServeOptions())

    def follow():
        async def look_twice():
            for _ in range(2):
                await models.reload(only_changed=True)

        caplog.clear()
        asyncio.run(look_twice())
        return [record.getMessage() for record in caplog.records if "not loaded again" in record.getMessage()]

    try:
        (runs / "latest").write_text("second\n")
        with monkeypatch.context() as patch:
            patch.setattr(ServedPredictor, "prepare", lambda *_: 1 // 0)  # what no check of a bundle foresees
            (said,) = follow()
            assert "the old bundle answers: ZeroDivisionError(" in said
        runs.rename(tmp_path / "away")
        assert len(follow()) == 1
        (tmp_path / "away").rename(runs)
        assert follow() == []
        runs.rename(tmp_path / "away")
        assert len(follow()) == 1  # again
        (tmp_path / "away").rename(runs)
        assert models.get("").version == "first"
        (runs / "second" / "bundle.json").touch()
        assert follow() == []
        assert models.get("").version == "second"
    finally:
        models.close()


def check_stop(server, data):
    """A request whose body is still on its way when the server is asked to stop is answered."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {BINARY}\r\nAuthorization: Bearer other\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with server.open() as connection:
        connection.sendall(head.encode() + data[:50])
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(ConnectionError):
            server.open()
        connection.sendall(data[50:])
        assert read_status(connection) == 200
    assert server.process.wait(10) == 0


def write(path, text):
    path.write_text(text)
    return path


def test_the_command_says_what_is_wrong(bundle, tmp_path, capsys):
    from featx.cli.app import app
    from featx.errors import BundleError, FeatxError, UsageError

    with pytest.raises(UsageError, match="two models would be called"):
        app(["serve", str(bundle), str(bundle)], standalone_mode=False)
    with pytest.raises(UsageError, match="has no token"):
        app(["serve", str(bundle), "--token-file", str(write(tmp_path / "empty", "\n"))], standalone_mode=False)
    with pytest.raises(UsageError, match="needs both files"):
        app(["serve", str(bundle), "--tls-cert", "a.pem"], standalone_mode=False)
    (tmp_path / "bad.pem").write_text("no certificate")
    for name, reason in (("gone.pem", "No such file"), ("bad.pem", "PEM")):
        tls = ["--tls-cert", str(tmp_path / name), "--tls-key", str(tmp_path / name)]
        with pytest.raises(UsageError, match=rf"certificate .*{name} and the key .* cannot be used .*{reason}"):
            app(["serve", str(bundle), *tls], standalone_mode=False)
    with pytest.raises(BundleError, match="there is no bundle"):
        app(["serve", str(tmp_path / "gone"), "--port", "0"], standalone_mode=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FeatxError, match="cannot listen"):
            app(["serve", str(bundle), "--port", str(taken.getsockname()[1])], standalone_mode=False)
