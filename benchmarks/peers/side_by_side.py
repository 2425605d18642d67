# Two programs on the same data, call by call in turn: timing, agreement, records.
# SPDX-License-Identifier: Apache-2.0
"""A comparison alternates one call of ours and one of the peer's, so that whatever else the machine does hits both. Kept are wall
time and processor time, the smallest and the median of each; ratios are of the smallest processor times."""
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np


class Worker:
    """benchmarks/peers/worker.cpp over a pipe."""

    def __init__(self, path):
        self._process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._folder = tempfile.TemporaryDirectory(prefix="espalier_peers_")
        self.peaks = []

    def ask(self, *words):
        self._process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError("worker: " + answer["error"])
        return answer

    def arrays(self, **named):
        for name, value in named.items():
            path = os.path.join(self._folder.name, name + ".npy")
            np.save(path, value)
            self.ask("array", name, path)
            os.remove(path)

    def case(self, name, kind, **settings):
        self.ask("case", name, kind, *(f"{key}={value}" for key, value in settings.items()))

    def run(self, name):
        return self.ask("run", name)

    def output(self, name, output):
        path = os.path.join(self._folder.name, "output.npy")
        self.ask("save", name, output, path)
        value = np.load(path)
        os.remove(path)
        return value

    def peak(self):
        self.peaks.append(self.ask("peak")["flops"])
        return self.peaks[-1]

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()


def timed(call):
    """One call of a Python function: (times, result)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    cpu = time.process_time() - cpu
    return {"wall": time.perf_counter() - wall, "cpu": cpu}, result


def settle():
    """Waits, two seconds at most, until no thread of this process works any more: JAX gives the memory of a call back after it has
    returned (130 ms for the published form at L = 16,384), on the core where our next call would run, and be measured, meanwhile."""
    end = time.perf_counter() + 2
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return


def error(ours, theirs):
    """||ours - theirs|| / ||theirs||, both as flat arrays."""
    ours, theirs = np.asarray(ours, np.float64).ravel(), np.asarray(theirs, np.float64).ravel()
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def copy_rate():
    """Bytes read and written a second by one core that copies memory beyond every cache: the best of five."""
    source, target = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


class Comparison:
    """Measures pairs of calls and writes one JSON line for each."""

    def __init__(self, worker, records, quick):
        self.worker, self.quick = worker, quick
        self._records = records

    def measure(self, title, peer_name, ours, theirs, *, flops=0.0, rounds=9, outputs=(), tolerance=0.0, bar=None, trim=None,
                note="", executed=None, moved=None):
        """ours: a case of the worker. theirs: a function without arguments, or another case. outputs: [(name of our output,
        function of the peer's result)], compared by `error` and held to `tolerance`. trim: {name: function of our output}, what of
        it the peer has. bar: the ratio to reach, or None. executed, moved: for a roofline, our flops with everything rounded up
        to whole register tiles, and the bytes of all operands and results."""
        peer = (lambda: (self.worker.run(theirs), None)) if isinstance(theirs, str) else (lambda: timed(theirs))
        warm = rounds > 1
        if self.quick:
            rounds = max(1, rounds // 3)
        our_times, their_times, result = [], [], None
        if warm:
            self.worker.run(ours)
            peer()
            settle()
        self.worker.peak()
        for _ in range(rounds):
            our_times.append(self.worker.run(ours))
            times, result = peer()
            their_times.append(times)
            settle()
            self.worker.peak()
        record = {"title": title, "peer": peer_name, "flops": flops, "rounds": rounds, "bar": bar, "note": note,
                  "peak": max(self.worker.peaks), "error": None}
        for side, times in (("ours", our_times), ("theirs", their_times)):
            for clock in ("cpu", "wall"):
                values = [t[clock] for t in times]
                record[f"{side}_{clock}"] = min(values)
                record[f"{side}_{clock}_median"] = statistics.median(values)
        if moved is not None:
            record["executed"], record["moved"], record["copy_rate"] = executed, moved, copy_rate()
        if outputs:
            keep = trim or {}
            errors = [error(keep.get(name, lambda x: x)(self.worker.output(ours, name)), theirs_of(result))
                      for name, theirs_of in outputs]
            record["error"] = max(errors)
            if not max(errors) <= tolerance:
                raise SystemExit(f"{title}: {peer_name} and we differ by {errors}, more than {tolerance}")
        record["ratio"] = record["theirs_cpu"] / record["ours_cpu"]
        self._records.write(json.dumps(record) + "\n")
        self._records.flush()
        met = "" if bar is None else ("  met" if record["ratio"] >= bar else "  MISSED") + f" (bar {bar:g})"
        peak = record["peak"]
        print(f"{title:68s} {peer_name:27s} ours {1e3 * record['ours_cpu']:9.2f} ms ({flops / record['ours_cpu'] / peak:.3f})"
              f"  peer {1e3 * record['theirs_cpu']:9.2f} ms ({flops / record['theirs_cpu'] / peak:.3f})"
              f"  ratio {record['ratio']:7.2f}  wall {record['theirs_wall'] / record['ours_wall']:7.2f}"
              f"{'' if record['error'] is None else '  error %.1e' % record['error']}{met}", flush=True)
        return record
