"""Compares an executed notebook with the stored one, and with --store writes it over that. Cells tagged `timing` keep their
stored outputs while their source is the same: times differ from run to run and would make every change of a notebook large.
usage: store_outputs.py [--store] EXECUTED STORED
SPDX-License-Identifier: Apache-2.0
"""
import sys

import nbformat


def main():
    arguments = [a for a in sys.argv[1:] if a != "--store"]
    executed, stored = (nbformat.read(path, as_version=4) for path in arguments)
    before = {cell.id: cell for cell in stored.cells}
    for cell in executed.cells:
        old = before.get(cell.id)
        if "timing" in cell.metadata.get("tags", []) and old and old.source == cell.source and old.outputs:
            cell.outputs = old.outputs
    if executed == stored:
        return
    if "--store" in sys.argv:
        nbformat.write(executed, arguments[1])
    print(arguments[1] + (": stored" if "--store" in sys.argv else ": outputs differ from the stored ones (scripts/notebooks --store)"))


main()
