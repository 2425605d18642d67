"""Tests of the notebook kernel: what ends a cell well or badly, what is displayed, that a bad notebook fails when executed.
usage: kernel_test.py [FLAG...]   the compiler's flags; kernel installed in JUPYTER_PATH, libespalier.so in LD_LIBRARY_PATH
SPDX-License-Identifier: Apache-2.0
"""
import base64
import json
import os
import subprocess
import sys
import tempfile

import kernel
import nbformat


def check(what, holds):
    if not holds:
        sys.exit("kernel test failed: " + what)


class Run:
    """Cells in one interpreter."""

    def __init__(self):
        self.interpreter, self.cells, self.shown = kernel.Interpreter(), 0, []

    def __call__(self, code):
        self.cells += 1
        return self.interpreter.run(code, f"In[{self.cells}]", lambda text: None, self.shown.append)


def test_states():
    run = Run()
    check("output comes back, state is kept", run("#include <iostream>\nint a = 41;")[0] == "done"
          and run('std::cout << a + 1 << " \u00fc";  // no newline') == ("done", "42 \u00fc"))
    state, output = run("int b = a +;")
    check("an error of the compiler names cell and line", state == "failed" and "In[3]:1" in output)
    check("the cell after it runs", run("std::cout << a;") == ("done", "41"))
    state, output = run("int nowhere();\nint c = nowhere();")
    check("a missing symbol", state == "failed" and "nowhere" in output)
    state, output = run('throw std::runtime_error("too cold");')
    check("an exception nobody catches", state == "ended" and "too cold" in output)
    run.interpreter.stop()


def test_display():
    run = Run()
    check("the header for notebooks loads the library", run("#include <espalier/notebook.hpp>")[0] == "done")
    check("the library answers", run('#include <espalier/core/build_info.hpp>\n#include <espalier/io/plot.hpp>')[0] == "done"
          and run('try { espalier::svg_plots({}, 1); } catch (const std::exception& e) { std::cout << e.what(); }')
          == ("done", "plots: there are none"))
    for size in range(1, 6):
        text = "<\xff\x80"[:size] + "x" * (size - 3)
        literal = "".join(f"\\{ord(c):03o}" for c in text)
        check("displayed", run(f'espalier::notebook::show(espalier::notebook::Png{{"{literal}"}});')[0] == "done")
        check(f"{size} bytes in base 64", base64.b64decode(run.shown[-1]["image/png"]) == text.encode("latin-1"))
    check("a picture is an image element", run('espalier::notebook::show(espalier::notebook::Svg{"<svg/>"});')[0] == "done"
          and base64.b64encode(b"<svg/>").decode() in run.shown[-1]["text/html"] and "<img" in run.shown[-1]["text/html"])
    check("a table escapes its cells", run('espalier::notebook::show(espalier::notebook::Table{{"h"}, {{"a<b"}}});')[0] == "done"
          and "<td>a&lt;b</td>" in run.shown[-1]["text/html"])
    run.interpreter.stop()


def test_bad_notebooks_fail():
    for code, fails in (("int a = 1;", False), ("int a = ;", True), ("throw 1;", True)):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)],
                                        metadata={"kernelspec": {"name": "xcpp20", "display_name": "C++20"}})
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "planted.ipynb")
            nbformat.write(book, path)
            status = subprocess.run([sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", path],
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        check(f"the notebook {code!r} {'fails' if fails else 'runs'}", (status != 0) == fails)


os.environ["ESPALIER_NOTEBOOK_COMMAND"] = json.dumps([kernel.find_interpreter()] + ["--Xcc=" + f for f in sys.argv[1:]])
test_states()
test_display()
test_bad_notebooks_fail()
