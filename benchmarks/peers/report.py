# Writes the page and the table of a run of benchmarks/peers/run from its records; no number is typed in.
# usage: report.py RECORDS LOAD PAGE.md TABLE.csv     SPDX-License-Identifier: Apache-2.0
import csv
import json
import os
import sys


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return (names or ["unknown processor"])[0]


def milliseconds(seconds):
    return f"{1e3 * seconds:.2f}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def share(record, side):
    return f"{record['flops'] / record[side + '_cpu'] / record['peak']:.2f}" if record["flops"] else ""


def row(record):
    bar = record["bar"]
    verdict = "" if bar is None else f"{bar:.3g}: " + ("met" if record["ratio"] >= bar else "**missed**")
    cells = [record["title"], record["peer"], milliseconds(record["ours_cpu"]), share(record, "ours"),
             milliseconds(record["theirs_cpu"]), share(record, "theirs"), f"**{record['ratio']:.2f}**",
             f"{record['theirs_cpu_median'] / record['ours_cpu_median']:.2f}",
             f"{record['theirs_wall'] / record['ours_wall']:.2f}",
             "" if record["error"] is None else f"{record['error']:.0e}", verdict]
    return "| " + " | ".join(cells) + " |"


def roofline(record):
    if not record.get("moved"):
        return ""
    compute, move = record["executed"] / record["peak"], record["moved"] / record["copy_rate"]
    return (f" Roofline: rounded up to whole register tiles the flops take {milliseconds(compute)} ms; to read the operands and write "
            f"the results once a pass, {record['moved'] / 1e6:.0f} MB at the {record['copy_rate'] / 1e9:.0f} GB/s of a copy in this run, takes "
            f"{milliseconds(move)} ms where the peer's calls in between have put them out of the cache. One after the other "
            f"{milliseconds(compute + move)} ms, a ratio of {record['theirs_cpu'] / (compute + move):.1f} with every multiply-add at the "
            f"peak and nothing else done: no packing, mask tiles, row sums, division or gradients of tables.")


def main():
    records_path, load, page, table = sys.argv[1:5]
    with open(records_path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    groups = [line for line in lines if "group" in line]
    records = [line for line in lines if "title" in line]
    peak = max(record["peak"] for record in records)
    out = ["# Beside other software", "",
           "Written by `benchmarks/peers/run` ([how](../benchmarks/README.md)). Both sides of a row run on the same data, call by call in "
           "turn, in the same minutes, pinned to one core with one thread each. Times are processor times, the smallest of all rounds; "
           "*ratio* is theirs over ours, also of medians and of the smallest wall times. *of peak*: counted flops against the float "
           "multiply-add peak that the same run measured. Where both compute the same, their results were compared: *difference* is "
           "‖ours - theirs‖ / ‖theirs‖, the largest over the output and all gradients. *bar* is the ratio that the library sets itself.", "",
           f"Machine: {processor()}, {os.cpu_count()} cores, {groups[0]['set']}, {peak / 1e9:.0f} GFLOP/s a core, load average before the "
           f"run {load}. Versions: {'; '.join(group['version'] for group in groups)}, as the package index ships them.", "",
           "| work | peer | ours ms | of peak | theirs ms | of peak | ratio | of medians | wall | difference | bar |",
           "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"]
    out += [row(record) for record in records]
    for record in records:
        if record["bar"] is not None and record["ratio"] < record["bar"] and record["flops"]:
            floor = record["flops"] / record["peak"]
            wanted = record["theirs_cpu"] / record["bar"]
            out += ["", f"**Missed.** {record['title']}: its flops alone take {milliseconds(floor)} ms at the peak of this run, so no "
                    f"exact method with these flops passes a ratio of {record['theirs_cpu'] / floor:.1f}; the bar asks for "
                    f"{milliseconds(wanted)} ms, {floor / wanted:.2f} of the peak with everything counted, ours takes "
                    f"{milliseconds(record['ours_cpu'])} ms." + roofline(record)]
    out += ["", "What is counted:",
            "* softmax: 4 L² d flops forward, 14 L² d with backward; exponentials are not counted. The peer's Toeplitz bias is an L x L "
            "matrix made beforehand; ours is made from its 2 L - 1 numbers inside the call.",
            "* small images: forward, the peer's dense masks exist already; in training it gathers them from the tables, which learned "
            "tables need. Ours are made from the tables in every call. ReLU is part of the call on both sides.",
            "* FFT: two real columns a complex transform, 10 N log2 N flops a pair, N = 2 L. Plans and compilation are not counted, spectra "
            "are. *published form*: one complex FFT over all m (d + 1) columns. *best form*: two real columns a complex FFT, one feature at a time.",
            "* bare FFTW transforms do only a part of the Toeplitz product's work: the ratio is below 1.",
            "* diffusion: the graph is in memory on both sides; our set-up (spectral bound, coefficients) is counted.", ""]
    with open(page, "w", encoding="utf-8") as file:
        file.write("\n".join(out))
    columns = ["title", "peer", "ours_cpu", "ours_cpu_median", "ours_wall", "theirs_cpu", "theirs_cpu_median", "theirs_wall", "ratio",
               "bar", "flops", "peak", "error", "rounds", "note"]
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


main()
