# Runs one group of comparisons: torch, scipy, jax or fft. Called by benchmarks/peers/run, each group in a process of its own.
# SPDX-License-Identifier: Apache-2.0
import argparse
import importlib
import json

from side_by_side import Comparison, Worker


def version_of(group):
    package = {"torch": "torch", "scipy": "scipy", "jax": "jax"}.get(group)
    return f"{package} {importlib.import_module(package).__version__}" if package else "FFTW of this system"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("group", choices=["torch", "scipy", "jax", "fft"])
    parser.add_argument("--worker", required=True)
    parser.add_argument("--records", required=True, help="JSON lines are appended here")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    worker = Worker(options.worker)
    with open(options.records, "a", encoding="utf-8") as records:
        records.write(json.dumps({"group": options.group, "version": version_of(options.group),
                                  "set": worker.ask("set")["name"]}) + "\n")
        importlib.import_module(options.group + "_cases").run(Comparison(worker, records, options.quick))
    worker.close()


main()
