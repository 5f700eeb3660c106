"""Measure how many pictures `featx serve` answers in a second, and how far that is from embedding a folder.

    python benchmarks/serve.py BUNDLE [--clients 8,2,64] [--rounds 5] [--seconds 10] [--images 256]
        [--flask-python PYTHON] [--litserve-python PYTHON --export FOLDER]

BUNDLE has the network MobileNetV2. JPEG files of 500x375 px, one in each request, over loopback; the clients are
threads of one process, which keep their connections. The ways alternate within each round:

- `embed`: `featx.embed` of the same files into a new store;
- `serve`: `featx serve`; requests that get status 503 are sent again, and counted;
- `flask`: a Flask app that calls `model.predict` for each request, if its environment is named;
- `litserve`: LitServe with the model that `featx export --to openvino` wrote, likewise.

On a machine that does other work too, compare the processor time of each image: that of the server with its children.
Goals: 0.6 of `embed`, and 3 times `flask`, with 8 clients. The clients share the cores with the server, so with two
cores the ratio to `embed` is lower than with a client elsewhere. Where it is below the goal, we look at the share of
the time that Python holds its lock. Each line is JSON.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from photographs import draw_photographs
from reporting import read_processor, show

OK, FULL = 200, 503
MOST_START_SECONDS = 120
GOALS = {"embed": 0.6, "flask": 3.0}


class Client(threading.Thread):
    """Sends one picture after the other over one connection, until told to stop."""

    def __init__(self, port, requests, until):
        super().__init__()
        self._port, self._requests, self._until = port, requests, until
        self.seconds, self.statuses = [], []

    def run(self):
        """Send, and read the answers."""
        number = id(self)
        while time.perf_counter() < self._until:
            with socket.create_connection(("localhost", self._port)) as connection:
                answers, is_open = connection.makefile("rb"), True
                while is_open and time.perf_counter() < self._until:
                    number += 1
                    started = time.perf_counter()
                    connection.sendall(self._requests[number % len(self._requests)])
                    status, is_open = read_answer(answers)
                    self.statuses.append(status)
                    if status == OK:
                        self.seconds.append(time.perf_counter() - started)
                    else:
                        time.sleep(0.05)


def read_answer(answers):
    """Read an answer, and return its status, and whether the connection stays open: Flask's closes it each time."""
    version, status, *_ = answers.readline().split()
    fields = {}
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        fields[name.lower()] = value.strip()
    answers.read(int(fields.get(b"content-length", 0)))
    return int(status), version == b"HTTP/1.1" and fields.get(b"connection") != b"close"


def make_request(data, *, is_form):
    """Make a request of the bytes of a picture, or of a form, which is all that LitServe takes."""
    kind = b"image/jpeg"
    if is_form:
        kind = b"multipart/form-data; boundary=XX"
        head = b'--XX\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
        data = head + data + b"\r\n--XX--\r\n"
    fields = b"Host: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(data))
    return b"POST /predict HTTP/1.1\r\n" + fields + data


def load(port, requests, clients, seconds):
    """Return images/s, the seconds of each answer, and the statuses."""
    started = time.perf_counter()
    threads = [Client(port, requests, started + seconds) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = time.perf_counter() - started
    answered = sorted(one for thread in threads for one in thread.seconds)
    return len(answered) / spent, answered, [one for thread in threads for one in thread.statuses]


@contextlib.contextmanager
def start(name, command):
    """Start a server, and return its process and port when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [one.replace("PORT", str(port)) for one in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    started = time.perf_counter()
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.perf_counter() - started > MOST_START_SECONDS:
                sys.exit(f"{name} did not start")
            time.sleep(0.05)
        show("started", way=name, seconds=time.perf_counter() - started)
        yield process, port
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # LitServe has several processes
        process.wait()


def count_bytes(process):
    """Count the bytes of memory that a process has in use."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


def count_cpu_seconds(process):
    """Count the processor time of a process and of those that it started."""
    total, wanted = 0, {process.pid}
    for path in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(path.parent.name) in wanted or int(fields[1]) in wanted:
                wanted.add(int(path.parent.name))
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure_embed(folder, backbone):
    """Return images/s of `featx.embed` and its processor time, with the network built and warmed up before."""
    import featx

    with tempfile.TemporaryDirectory() as features:
        started, cpu = time.perf_counter(), time.process_time()
        made = featx.embed(folder, backbone, folder=features)
        return made.new / (time.perf_counter() - started), (time.process_time() - cpu) / made.new


def measure(servers, folder, requests, options):
    """Measure all ways in each round, for one number of clients after the other."""
    import featx

    backbone = featx.load_backbone("mobilenetv2")
    measure_embed(folder, backbone)
    for clients in options.clients:
        rates, latencies, refused, cpu = {}, {}, dict.fromkeys(servers, 0), {}
        before = {name: count_bytes(process) for name, (process, _) in servers.items()}
        for _ in range(options.rounds):
            rate, spent = measure_embed(folder, backbone)
            rates.setdefault("embed", []).append(rate)
            cpu.setdefault("embed", []).append(spent)
            for name, (process, port) in servers.items():
                began = count_cpu_seconds(process)
                rate, seconds, statuses = load(port, requests[name], clients, options.seconds)
                cpu.setdefault(name, []).append((count_cpu_seconds(process) - began) / max(1, len(seconds)))
                rates.setdefault(name, []).append(rate)
                latencies.setdefault(name, []).extend(seconds)
                refused[name] += sum(status == FULL for status in statuses)
                if not set(statuses) <= {OK, FULL}:
                    sys.exit(f"{name} answered with status {set(statuses)}")
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, values in rates.items():
            spread = {"least": min(values), "most": max(values), "cpu_ms_per_image": 1e3 * statistics.median(cpu[name])}
            show("rate", way=name, clients=clients, images_per_second=medians[name], **spread)
        for name, (process, _) in servers.items():
            own = sorted(latencies[name])
            p50, p99 = own[len(own) // 2], own[int(0.99 * len(own))]
            memory = {"memory_mb_before": before[name] / 1e6, "memory_mb": count_bytes(process) / 1e6}
            show(
                "latency",
                way=name,
                clients=clients,
                p50_ms=1e3 * p50,
                p99_ms=1e3 * p99,
                refused=refused[name],
                **memory,
            )
        for name in set(medians) - {"serve"}:
            paired = [mine / theirs for mine, theirs in zip(rates["serve"], rates[name], strict=True)]
            by_cpu = statistics.median(cpu[name]) / statistics.median(cpu["serve"])
            figures = {"ratio": statistics.median(paired), "by_cpu": by_cpu, "goal": GOALS.get(name)}
            show("ratio", of="serve", to=name, clients=clients, **figures)


def main():
    """Measure, and print lines of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--clients", default=[8, 2, 64], type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--seconds", default=10.0, type=float)
    parser.add_argument("--images", default=256, type=int)
    parser.add_argument("--serve-options", default="", help="more options of featx serve")
    parser.add_argument("--flask-python")
    parser.add_argument("--litserve-python")
    parser.add_argument("--export")
    options = parser.parse_args()
    show("machine", processor=read_processor(), cores=os.cpu_count(), load=os.getloadavg()[0])
    here = Path(__file__).parent
    more = options.serve_options.split()
    commands = {"serve": [sys.executable, "-m", "featx", "serve", options.bundle, "--port", "PORT", *more]}
    if options.flask_python:
        commands["flask"] = [options.flask_python, str(here / "serve_flask.py"), "PORT"]
    if options.litserve_python:
        commands["litserve"] = [options.litserve_python, str(here / "serve_litserve.py"), "PORT", options.export]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        draw_photographs(folder, options.images, classes=2)
        servers = {name: stack.enter_context(start(name, command)) for name, command in commands.items()}
        files = [path.read_bytes() for path in sorted(Path(folder).rglob("*.jpg"))]
        requests = {name: [make_request(data, is_form=name == "litserve") for data in files] for name in servers}
        for name, (_, port) in servers.items():
            load(port, requests[name], 4, 2)  # warm up
        measure(servers, folder, requests, options)


if __name__ == "__main__":
    main()
