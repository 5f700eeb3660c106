"""What no client should send: each case is answered with a status below 500, or the connection is closed."""

import base64
import concurrent.futures
import contextlib
import io
import json
import select
import socket
import struct
import time
import zlib

import numpy as np
from image_files import make_chunk, make_png
from PIL import Image
from server_process import make_form, read_status

END = b"\r\n\r\n"
HOST = b"Host: localhost\r\n"


def make_head(method=b"POST", path=b"/predict", *fields, version=b"HTTP/1.1", host=HOST):
    return b"%s %s %s\r\n%s" % (method, path, version, host) + b"".join(one + b"\r\n" for one in fields) + b"\r\n"


def post(body, kind=b"application/octet-stream", path=b"/predict", *fields):
    return make_head(b"POST", path, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *fields) + body


def post_json(values, path=b"/predict"):
    return post(values if isinstance(values, bytes) else json.dumps(values).encode(), b"application/json", path)


def post_form(*parts, path=b"/predict"):
    body, kind = make_form(*parts)
    return post(body, kind.encode(), path)


def infer(tensor=None, **values):
    wanted = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3], **(tensor or {})}
    return post_json({"inputs": [wanted], **values}, b"/v2/models/digits/infer")


def infer_binary(head, binary, length=None):
    length = len(head) if length is None else length
    field = b"Inference-Header-Content-Length: %s" % str(length).encode()
    return post(head + binary, b"application/octet-stream", b"/v2/models/digits/infer", field)


def make_tensor(**tensor):
    wanted = {"name": "images", "datatype": "BYTES", "shape": [1], **tensor}
    return json.dumps({"inputs": [wanted]}).encode()


def encode(kind="PNG", size=(8, 8), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **options)
    return buffer.getvalue()


def get(path):
    return make_head(b"GET", path)


def make_heads():
    """Heads of requests, and the statuses that each may have; 0 if the connection may be closed."""
    length = b"Content-Length: "
    return {
        "bytes": (b"\x00\xff\x16\x03" * 50 + END, {400}),
        "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + END, {400}),
        "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 403}),
        "an unknown version": (make_head(b"GET", b"/", version=b"HTTP/9.9"), {200, 400}),
        "no host": (make_head(b"GET", b"/", host=b""), {400}),
        "two hosts": (make_head(b"GET", b"/", HOST.strip()), {400}),
        "another host": (make_head(b"GET", b"/models", host=b"Host: evil.example\r\n"), {403}),
        "another site": (make_head(b"POST", b"/predict", b"Sec-Fetch-Site: cross-site", length + b"0"), {403}),
        "a flood of fields": (make_head(b"GET", b"/", *(b"X-%d: 1" % at for at in range(10_000))), {0, 400, 431}),
        "a field of 100 kB": (make_head(b"GET", b"/", b"X: " + b"x" * 100_000), {0, 400, 431}),
        "a folded field": (make_head(b"GET", b"/", b"X: a\r\n b"), {200, 400}),
        "a null in a field": (make_head(b"GET", b"/", b"X: a\x00b"), {400}),
        "a blank in a name": (make_head(b"GET", b"/", b"X y: a"), {400}),
        "two lengths": (make_head(b"POST", b"/predict", length + b"1", length + b"2"), {400}),
        "a negative length": (make_head(b"POST", b"/predict", length + b"-1"), {400}),
        "a length in words": (make_head(b"POST", b"/predict", length + b"ten"), {400}),
        "a length of 1 GB": (make_head(b"POST", b"/predict", length + b"1000000000"), {413}),
        "a length of 1 GB, waiting": (
            make_head(b"POST", b"/predict", length + b"1000000000", b"Expect: 100-continue"),
            {413},
        ),
        "a length of 31 digits": (make_head(b"POST", b"/predict", length + b"1" + b"0" * 30), {400, 413}),
        "a smuggled request": (
            make_head(b"POST", b"/predict", length + b"4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
            {400, 415},
        ),
        "an unknown coding": (make_head(b"POST", b"/predict", b"Transfer-Encoding: gzip, chunked"), {400}),
        "a chunk of no length": (
            make_head(b"POST", b"/predict", b"Transfer-Encoding: chunked") + b"zz\r\n",
            {400, 415},
        ),
        "a chunk of negative length": (
            make_head(b"POST", b"/predict", b"Transfer-Encoding: chunked") + b"-5\r\nhello\r\n",
            {400, 415},
        ),
        "a compressed body": (
            post(zlib.compress(bytes(10**6)), b"image/png", b"/predict", b"Content-Encoding: gzip"),
            {415},
        ),
        "a path upwards": (get(b"/../../etc/passwd"), {404}),
        "an escaped path upwards": (get(b"/%2e%2e/%2e%2e/etc/passwd"), {404}),
        "a path from a file": (get(b"/page.css/../../options.py"), {404}),
        "a double slash": (get(b"//models"), {404}),
        "an escaped slash in a name": (get(b"/v2/models/..%2f..%2fetc"), {404}),
        "a null in a name": (get(b"/v2/models/%00/ready"), {404}),
        "an escaped line in a name": (get(b"/v2/models/a%0d%0aX:b"), {404}),
        "no UTF-8 in a name": (get(b"/v2/models/%ff%fe"), {404}),
        "bytes in a path": (get(b"/\xff\xfe"), {400, 404}),
        "a path of 10 kB": (get(b"/" + b"a" * 10_000), {404}),
        "a query of 10 kB": (get(b"/models?" + b"a=1&" * 2500), {200}),
        "a whole URL": (get(b"http://evil.example/"), {404}),
        "CONNECT": (make_head(b"CONNECT", b"evil.example:443"), {400, 404, 405}),
        "TRACE": (make_head(b"TRACE", b"/predict"), {405}),
        "DELETE": (make_head(b"DELETE", b"/v2/models/digits"), {405}),
        "GET of what is posted": (get(b"/predict"), {405}),
        "an unknown method": (make_head(b"X" * 100, b"/"), {405}),
        "a web socket": (make_head(b"GET", b"/", b"Connection: Upgrade", b"Upgrade: websocket"), {200}),
        "HTTP/1.0": (make_head(b"GET", b"/healthz", version=b"HTTP/1.0"), {200}),
        "an unknown version of a model": (get(b"/v2/models/digits/versions/2"), {404}),
    }


def make_bodies():
    """Bodies of requests that are not about pictures."""
    png, many = encode(), [("images", "a.png", b"x")]
    twice = post_form(("top", None, b"1"), ("top", None, b"2"), ("images", "a.png", png))
    field = [
        (b"top", b"0"),
        (b"top", b"-1"),
        (b"top", b"x"),
        (b"top", b"1e9"),
        (b"top", b"%D9%A3"),
        (b"explain", b"maybe"),
    ]
    return {
        "no content type": (make_head(b"POST", b"/predict", b"Content-Length: 1") + b"x", {415}),
        "a form of a page": (post(b"a=1", b"application/x-www-form-urlencoded"), {415}),
        "text": (post(b"hello", b"text/plain"), {415}),
        "an odd type": (post(b"hello", b"\xe9;;;="), {415}),
        "nothing": (post(b"", b"image/jpeg"), {400}),
        "no boundary": (post(b"--x\r\n", b"multipart/form-data"), {400}),
        "an endless boundary": (post(b"--x", b"multipart/form-data; boundary=" + b"x" * 5000), {400}),
        "no end": (post(make_form(("images", "a.png", png))[0][:-6], b"multipart/form-data; boundary=XX"), {400}),
        "no form": (post(b"hello", b"multipart/form-data; boundary=XX"), {400}),
        "1,000 parts": (post_form(*many * 1000), {413}),
        "9 pictures": (post_form(*many * 9), {413}),
        "a part of no name": (post(b"--XX\r\n\r\nhello\r\n--XX--\r\n", b"multipart/form-data; boundary=XX"), {400}),
        "a part with a field of 100 kB": (
            post(b"--XX\r\nX: " + b"x" * 100_000 + END + b"x\r\n--XX--", b"multipart/form-data; boundary=XX"),
            {400},
        ),
        "an unknown part": (post_form(("colour", None, b"1"), ("images", "a.png", png)), {400}),
        "a part twice": (twice, {400}),
        "a long part": (post_form(("model", None, b"x" * 5000), ("images", "a.png", png)), {400}),
        "a file name upwards": (post_form(("images", "../../etc/passwd", png)), {200}),
        "an unknown model": (post_form(("model", None, b"a\r\nb\xff"), ("images", "a.png", png)), {404}),
        "an unknown parameter": (post(png, b"image/png", b"/predict?colour=1"), {400}),
        **{
            f"{name!r} is {value!r}": (post(png, b"image/png", b"/predict?%s=%s" % (name, value)), {400})
            for name, value in field
        },
        "a body of 8 MB": (post(bytes(8_000_000)), {413}),
        "chunks of 8 MB": (
            make_head(b"POST", b"/predict", b"Transfer-Encoding: chunked")
            + (b"10000\r\n" + bytes(65536) + b"\r\n") * 122,
            {413},
        ),
    }


def make_texts():
    """JSON."""
    picture = base64.b64encode(encode()).decode()
    return {
        "no JSON": (post_json(b"{"), {400}),
        "100,000 lists": (post_json(b"[" * 100_000), {400}),
        "100,000 objects": (post_json(b'{"a":' * 100_000), {400}),
        "a number of 1,000,000 digits": (post_json(b'{"top":' + b"1" * 1_000_000 + b"}"), {400}),
        "NaN": (post_json(b'{"images": NaN}'), {400}),
        "a list": (post_json([]), {400}),
        "null": (post_json(None), {400}),
        "900,000 values": (post_json(b'{"images":[' + b"1," * 900_000 + b"1]}"), {400}),
        "no UTF-8": (post_json(b'{"images": ["\xff"]}'), {400}),
        "UTF-16": (post_json('{"images": []}'.encode("utf-16")), {400}),
        "a number for a list": (post_json({"images": 1}), {400}),
        "a number for a picture": (post_json({"images": [1]}), {400}),
        "no pictures": (post_json({"images": []}), {400}),
        "no base64": (post_json({"images": ["***"]}), {400}),
        "letters of no base64": (post_json({"images": ["\u0661"]}), {400}),
        "half base64": (post_json({"images": [picture[:41]]}), {400}),
        "an unknown field": (post_json({"images": [picture], "__class__": 1}), {400}),
        "a field of another type": (post_json({"images": [picture], "top": [1]}), {400}),
        "half a letter": (post_json(b'{"images": ["%s"], "model": "\\ud800"}' % picture.encode()), {404}),
        "9 pictures as text": (post_json({"images": [picture] * 9}), {413}),
        "a data URL": (post_json({"images": [f"data:image/png;base64,{picture}"]}), {200}),
    }


def make_tensors():
    """Requests of the inference protocol."""
    path = b"/v2/models/digits/infer"
    return {
        "no inputs": (post_json({}, path), {400}),
        "inputs of text": (post_json({"inputs": "images"}, path), {400}),
        "two inputs": (post_json({"inputs": [{}, {}]}, path), {400}),
        "an input of text": (post_json({"inputs": ["images"]}, path), {400}),
        "an unknown input": (infer({"name": "x"}), {400}),
        "another datatype": (infer({"datatype": "FP32"}), {400}),
        "an unhashable datatype": (infer({"datatype": [1]}), {400}),
        "no shape": (infer({"shape": None}), {400}),
        "a flat shape": (infer({"shape": [3]}), {400}),
        "a negative shape": (infer({"shape": [-1, 1, 1, 3]}), {400}),
        "a shape of true": (infer({"shape": [True, 1, 1, 3]}), {400}),
        "a shape of fractions": (infer({"shape": [1.0, 1, 1, 3]}), {400}),
        "a giant shape": (infer({"shape": [1, 2**30, 2**30, 3]}), {413}),
        "a giant batch": (infer({"shape": [2**30, 1, 1, 3]}), {413}),
        "a giant side": (infer({"shape": [1, 10**30, 1, 3]}), {400}),
        "too few values": (infer({"data": [1]}), {400}),
        "a value of 256": (infer({"data": [1, 2, 256]}), {400}),
        "a value of text": (infer({"data": ["1", "2", "3"]}), {400}),
        "a value of null": (infer({"data": [None, 2, 3]}), {400}),
        "a value of 10^30": (infer({"data": [10**30, 2, 3]}), {400}),
        "fractions": (infer({"data": [0.5, 2, 3]}), {400}),
        "true among numbers": (infer({"data": [True, 2, 3]}), {400}),
        "true in rows": (infer({"data": [[[[1, 2, False]]]]}), {400}),
        "a number for the data": (infer({"data": 1}), {400}),
        "ragged rows": (infer({"data": [[1], [2, 3]]}), {400}),
        "deep rows": (infer({"data": json.loads("[" * 80 + "1" + "]" * 80)}), {400}),
        "rows of a right shape": (infer({"data": [[[[1, 2, 3]]]]}), {200}),
        "an id of a list": (infer(id=[1]), {400}),
        "parameters of a list": (infer({"parameters": [1]}), {400}),
        "outputs of text": (infer(outputs="labels"), {400}),
        "an unknown output": (infer(outputs=[{"name": "x"}]), {400}),
        "an output of a list": (infer(outputs=[{"name": []}]), {400}),
        "a classification": (infer(outputs=[{"name": "labels", "parameters": {"classification": 3}}]), {400}),
        "a head longer than the body": (infer_binary(b"{}", b"", 10**6), {400}),
        "a head of negative length": (infer_binary(b"{}", b"", -1), {400}),
        "a head of odd length": (infer_binary(b"{}", b"", "²"), {400}),
        "bytes of another size": (infer_binary(make_tensor(parameters={"binary_data_size": 9}), b"1234"), {400}),
        "an element of 4 GB": (infer_binary(make_tensor(parameters={"binary_data_size": 4}), b"\xff" * 4), {400}),
        "half a length": (infer_binary(make_tensor(parameters={"binary_data_size": 2}), b"\x01\x00"), {400, 422}),
        "too few elements": (infer_binary(make_tensor(shape=[2], parameters={"binary_data_size": 4}), bytes(4)), {400}),
        "an empty element": (infer_binary(make_tensor(parameters={"binary_data_size": 4}), bytes(4)), {422}),
        "an element of no picture": (
            infer_binary(make_tensor(parameters={"binary_data_size": 5}), b"\1\0\0\0x"),
            {422},
        ),
    }


def make_pictures():
    """Files that are not pictures, or too much of one."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "JPEG")
    jpeg, png = buffer.getvalue(), encode("PNG", (64, 64))
    text = make_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000)))
    bomb = zlib.compress(bytes(30_000_000))
    files = {
        "a truncated JPEG": (jpeg[: len(jpeg) // 2], {422}),
        "a JPEG of no end": (jpeg[:-2] + bytes(1000), {422}),
        "a JPEG of 300 scans": (jpeg[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 300 + b"\xff\xd9", {422}),
        "a truncated PNG": (png[:60], {422}),
        "a flipped byte": (png[:45] + bytes([png[45] ^ 255]) + png[46:], {422}),
        "a PNG of 10 gigapixels": (make_png(100_000, 100_000, 8, 2, []), {422}),
        "a PNG of 30,000 rows": (make_png(1000, 30_000, 8, 0, [bytes(10)]), {422}),
        "a PNG that is a bomb": (png[:33] + make_chunk(b"IDAT", bomb) + png[33:], {200, 422}),
        "a PNG with a bomb of text": (png[:33] + text + png[33:], {200, 422}),
        "a WebP of 16,383 px": (encode("WEBP", (16_383, 16))[:30] + bytes(20), {422}),
        "a picture of 1.1 megapixels": (encode("PNG", (1100, 1001)), {422}),
        "a picture of 1 px": (encode("PNG", (1, 1)), {200}),
        "floats": (encode("TIFF", mode="F"), {422}),
        "a page": (b"<!doctype html><script>alert(1)</script>", {422}),
        "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', {422}),
        "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", {422}),
        "PDF": (b"%PDF-1.7\n", {422}),
        "an archive": (b"PK\x03\x04" + bytes(100), {422}),
        "a pickle": (b"\x80\x04cos\nsystem\n(S'id'\ntR.", {422}),
        "one byte": (b"x", {422}),
        "zeros": (bytes(100_000), {422}),
    }
    return {name: (post(data), statuses) for name, (data, statuses) in files.items()}


def test_nothing_that_a_client_sends_ends_the_server(server):
    before = server.count_bytes()
    cases = {**make_heads(), **make_bodies(), **make_texts(), **make_tensors(), **make_pictures()}
    assert len(cases) > 150
    wrong = {}
    for name, (data, statuses) in cases.items():
        found = server.send(data)
        if found not in statuses:
            wrong[name] = found
    assert not wrong, f"{wrong}\n{[line for line in server.read_log().splitlines() if 'traceback' in line]}"
    assert server.process.poll() is None
    check_health(server)
    # No case needs more than its body of 2 MB, or a picture of a megapixel.
    assert server.count_bytes() - before < 100e6


def check_health(server):
    assert server.request("GET", "/healthz") == (200, {"live": True})
    log = server.read_log()
    assert "traceback" not in log
    assert '"status": 500' not in log
    assert b'status="500"' not in server.request("GET", "/metrics")[1]


def send_slowly(server, data, tail):
    """Send a tail byte by byte, and return the status, and the seconds until the connection was closed."""
    started = time.monotonic()
    with server.open() as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionError):
            for at in range(len(tail)):
                if select.select([connection], [], [], 0.2)[0]:  # the answer, or the end
                    break
                connection.sendall(tail[at : at + 1])
        return read_status(connection), time.monotonic() - started


def leave(server, data):
    """Send the beginning of a request, and reset the connection."""
    connection = server.open()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(data)
    connection.close()


def test_slow_and_silent_clients_are_dropped(server):
    length = b"Content-Length: 1000"
    body = make_head(b"POST", b"/predict", length, b"Content-Type: image/png")
    cases = {
        "silence": (b"", b"", 0),
        "half a head": (b"POST /predict HTTP/1.1\r\nHost: localhost\r\n", b"", 0),
        "a slow head": (b"GET / HTTP/1.1\r\n", b"X: " + b"x" * 100, 0),
        "half a body": (body + b"x" * 10, b"", 408),
        "a slow body": (body, b"x" * 100, 408),
        "a slow body in chunks": (
            make_head(b"POST", b"/predict", b"Transfer-Encoding: chunked") + b"ff\r\n",
            b"x" * 100,
            408,
        ),
        "a second request that never comes": (get(b"/healthz"), b"", 200),
    }
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        found = dict(zip(cases, pool.map(lambda one: send_slowly(server, *one[:2]), cases.values()), strict=True))
    assert {name: status for name, (status, _) in found.items()} == {name: case[2] for name, case in cases.items()}
    assert max(seconds for _, seconds in found.values()) < 15
    for data in (b"", b"POST /pre", body, body + b"x" * 500, post(encode())):
        leave(server, data)
    with server.open() as connection:
        connection.sendall(body + b"x" * 10)
        connection.shutdown(socket.SHUT_WR)
        assert read_status(connection) in {0, 400, 408}
    with server.open() as connection:
        connection.sendall(get(b"/healthz") * 50)
        received = b""
        while received.count(b"HTTP/1.1 200") < 50:
            received += connection.recv(1 << 16)
    check_health(server)


def test_many_open_connections_leave_room_for_requests(server):
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(server.open())
        check_health(server)
