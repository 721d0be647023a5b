#!/usr/bin/env python3
"""Measures leveret and Debian's RabbitMQ in one sitting and prints a Markdown table.

    cargo build --release && bench/compare.py [TESTS] [--runs N] [--seconds N]

Both brokers run the whole time, on their own ports of 127.0.0.1; only one is under load at a
time, and they take turns run by run, so that whatever else the machine does hits both alike.
A run in which other processes took more than a quarter of a core is repeated, up to twice, and
the quietest one counts. Needs root, or an installed RabbitMQ. Every run is bounded in time.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVERET = ROOT / "target/release/leveret"
PERSISTENT = ["--queue-durable", "-p", "-s", "1024", "-c", "1000"]
ACKS = ["--prefetch", "1000", "--ack-every", "100"]
# Test: what it is, the load, the figure (higher is better unless it is a time), further columns.
TESTS = {
    "A": ("16 B transient, automatic acks", ["-s", "16", "--auto-ack"], "consume_rate"),
    "B": ("1 KiB transient, an ack per 100", ["-s", "1024", *ACKS], "consume_rate"),
    "C": ("1 KiB persistent, 1,000 confirms in flight", [*PERSISTENT, *ACKS], "confirm_rate"),
    "E": ("1 KiB fanout to 10 queues, 10 consumers",
          ["-s", "1024", "--fanout", "--queues", "10", "-y", "10", *ACKS], "consume_rate"),
    "F": ("16 B persistent, one confirm in flight, p50 µs",
          ["--queue-durable", "-p", "-s", "16", "-c", "1", "-y", "0"], "confirm_p50_us"),
    "I": ("1 KiB at 10,000/s, end to end, p50 µs",
          ["-s", "1024", "--rate", "10000", "--auto-ack"], "e2e_p50_us"),
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(name, folder):
    """Starts a broker; its port and process id."""
    port = free_port()
    if name == "leveret":
        command = [LEVERET, "--data-dir", folder / "leveret", "--bind", "127.0.0.1",
                   "--amqp-port", str(port), "--http-port", "0", "--log", "warn"]
        broker = subprocess.Popen(["nice", "-n", "-15", *command], stdout=subprocess.DEVNULL)
        pid = broker.pid
    else:
        script = ["nice", "-n", "-15", ROOT / "bench/rabbitmq-start.sh", folder / name, str(port)]
        out = subprocess.run(script, stdout=subprocess.PIPE, check=True, timeout=600).stdout
        pid = int(out.split()[-1])
    deadline = time.time() + 60
    while time.time() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return port, pid
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{name} does not accept connections")


def cpu_seconds(pids):
    """What the whole machine has used so far, and what these processes have."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4]))
    own = 0
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()
            own += int(stat[11]) + int(stat[12])
        except OSError:
            pass
    return sum(fields) / os.sysconf("SC_CLK_TCK"), own / os.sysconf("SC_CLK_TCK")


def load(args, port, pid, seconds):
    """One run; the load generator's report, and how many cores foreign processes took."""
    uri = f"amqp://guest:guest@127.0.0.1:{port}/"
    command = ["nice", "-n", "-15", LEVERET, "bench", "--uri", uri, "--json", *args,
               "--warmup", "2", "--duration", str(seconds), "--broker-pid", str(pid)]
    machine, broker = cpu_seconds([pid])
    children = os.times()
    began = time.time()
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 120).stdout
    took = time.time() - began
    after = os.times()
    own = after.children_user + after.children_system
    own -= children.children_user + children.children_system
    machine_after, broker_after = cpu_seconds([pid])
    foreign = machine_after - machine - own - (broker_after - broker)
    return json.loads(out) | {"foreign": foreign / took}


def quiet_run(args, port, pid, seconds):
    best = None
    for _ in range(3):
        report = load(args, port, pid, seconds)
        if best is None or report["foreign"] < best["foreign"]:
            best = report
        if best["foreign"] < 0.25:
            break
    return best


def shown(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def row(test, results):
    what, _, figure = TESTS[test]
    figure = figure if any(figure in r for r in results["leveret"]) else "publish_rate"
    median = {
        (peer, key): statistics.median([r[key] for r in runs if key in r] or [0])
        for peer, runs in results.items()
        for key in (figure, "broker_cpu_s_per_million", "broker_rss_max_kib")
    }
    ratio = median["leveret", figure] / max(median["rabbitmq", figure], 1e-9)
    cells = [f"{test} {what}"]
    for peer in ("rabbitmq", "leveret"):
        runs = [r[figure] for r in results[peer]]
        cells.append(f"{shown(median[peer, figure])} ({shown(min(runs))}–{shown(max(runs))})")
    cells.append(f"**{ratio:.2f}**")
    for peer in ("rabbitmq", "leveret"):
        cpu = median[peer, "broker_cpu_s_per_million"]
        rss = median[peer, "broker_rss_max_kib"] / 1024
        cells.append(f"{cpu:.2f}; {rss:.0f}")
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tests", nargs="?", default="ABCEFI", help="which, by letter (ABCEFI)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each test and broker (3)")
    parser.add_argument("--seconds", type=int, default=6, help="length of a run (6)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="leveret-compare-") as folder:
        brokers = {}
        try:
            for name in ("rabbitmq", "leveret"):
                brokers[name] = start(name, Path(folder))
            time.sleep(5)
            print("| test | RabbitMQ | leveret | leveret / RabbitMQ "
                  "| RabbitMQ: CPU s per million; RSS MiB | leveret: the same |")
            print("|---|---|---|---|---|---|")
            for test in options.tests:
                results = {name: [] for name in brokers}
                for _ in range(options.runs):
                    for name, (port, pid) in brokers.items():
                        report = quiet_run(TESTS[test][1], port, pid, options.seconds)
                        results[name].append(report)
                print(row(test, results), flush=True)
        finally:
            for _, pid in brokers.values():
                os.kill(pid, signal.SIGTERM)
            time.sleep(5)


if __name__ == "__main__":
    main()
