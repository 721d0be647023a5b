#!/usr/bin/env python3
"""Measures the toolkit next to the clients below it and prints a Markdown table.

    cargo build --release --bins && cargo build --release -p leveret --example throughput
    bench/toolkit.py [--runs N]

Each row is one broker; the ways to use it take turns, run by run, so that whatever else the
machine does hits all alike. The figures are messages a second that were published, confirmed,
consumed, decoded and acknowledged: medians, the slowest and the fastest run in brackets. Needs
root, or an installed RabbitMQ.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from compare import ROOT, start

THROUGHPUT = ROOT / "target/release/examples/throughput"
WITHIN = ("bus", "raw", "bare")
SERVED = (*WITHIN, "lapin")
# How many messages a run has: some seconds' worth.
MESSAGES = {"RabbitMQ": 100_000, "lapin": 50_000}
DEFAULT_MESSAGES = 1_000_000


def rate(way, url, messages, kind):
    command = [THROUGHPUT, way, url, str(messages)] + (["persistent"] if kind == "persistent" else [])
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    return int(re.search(r"(\d+) handled/s", out)[1])


def row(place, ways, url, kind, runs):
    rates = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            count = MESSAGES.get(way, MESSAGES.get(place, DEFAULT_MESSAGES))
            rates[way].append(rate(way, url, count, kind))

    def shown(way):
        found = rates.get(way)
        if not found:
            return ""
        return f"{statistics.median(found):,.0f} ({min(found):,}–{max(found):,})"

    def ratio(way):
        if way not in rates:
            return ""
        return f"{statistics.median(rates['bus']) / statistics.median(rates[way]):.2f}"

    cells = [f"{place}, {kind}", *map(shown, SERVED), *map(ratio, SERVED[1:])]
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print("| broker | bus | raw | bare | lapin | bus / raw | bus / bare | bus / lapin |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        folder = Path(folder)
        row("`memory:`", WITHIN, "memory:", "transient", runs)
        for kind in ("transient", "persistent"):
            row("`embedded:`", WITHIN, f"embedded:{folder / 'embedded'}", kind, runs)
        for place in ("leveret", "RabbitMQ"):
            port, pid = start(place.lower(), folder)
            try:
                for kind in ("transient", "persistent"):
                    url = f"amqp://guest:guest@127.0.0.1:{port}"
                    row(place, SERVED, url, kind, runs)
            finally:
                os.kill(pid, signal.SIGTERM)
                time.sleep(5)


if __name__ == "__main__":
    main()
