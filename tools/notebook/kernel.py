"""Jupyter kernel `xcpp20` on Debian's clang-repl: runs the C++ notebooks where xeus-cpp is not at hand, as in CI.
usage: kernel.py --install PREFIX [FLAG...]   writes PREFIX/share/jupyter/kernels/xcpp20; FLAGs: the compiler's, for every cell
SPDX-License-Identifier: Apache-2.0
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OPEN, CLOSE = b"\x1e", b"\x1f"  # around what cell.hpp says to the kernel in the middle of the program's output


def find_interpreter():
    for name in ("clang-repl-22", "clang-repl-21", "clang-repl-20", "clang-repl-19", "clang-repl"):
        if shutil.which(name):
            return shutil.which(name)
    sys.exit("clang-repl not found; on Debian: apt-get install clang-tools-22")


def install(prefix, flags):
    folder = os.path.join(prefix, "share", "jupyter", "kernels", "xcpp20")
    os.makedirs(folder, exist_ok=True)
    spec = {"argv": [sys.executable, "-Xfrozen_modules=off", os.path.abspath(__file__), "-f", "{connection_file}"],
            "display_name": "C++20", "language": "cpp",
            "env": {"ESPALIER_NOTEBOOK_COMMAND": json.dumps([find_interpreter()] + ["--Xcc=" + flag for flag in flags])}}
    with open(os.path.join(folder, "kernel.json"), "w", encoding="utf-8") as out:
        json.dump(spec, out, indent=1)


class Interpreter:
    """One clang-repl. A cell is a file that is included; its last statement notes that it got there. Then the interpreter is
    asked to say so: twice, since the line after one whose symbols are missing is lost too."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="espalier-notebook-")
        command = json.loads(os.environ["ESPALIER_NOTEBOOK_COMMAND"]) + [f"--Xcc=-I{HERE}/include"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.cells = 0
        self.rest = b""
        self.send(f'#include "{HERE}/include/cell.hpp"')

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def messages(self):
        """What comes: ("text", ...), ("display", ...), ("end", "cell state"); ends when the interpreter does."""
        data = b"-"
        while data:
            while OPEN in self.rest and CLOSE in self.rest[self.rest.index(OPEN):]:
                text, _, behind = self.rest.partition(OPEN)
                message, _, self.rest = behind.partition(CLOSE)
                yield "text", text
                kind, _, content = message.partition(b" ")
                yield kind.decode(), content
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            self.rest += data
        yield "text", self.rest

    def run(self, code, label, on_text, on_display):
        """Runs one cell. Returns (state, output): state "done", "failed" or "ended"."""
        self.cells += 1
        path = os.path.join(self.folder, f"cell{self.cells}.cpp")
        with open(path, "w", encoding="utf-8") as out:
            out.write(f'#line 1 "{label}"\n{code}\n;espalier_cell::reached({self.cells});\n')
        output, waiting = "", b""

        def pass_on():
            nonlocal output, waiting
            text, waiting = waiting.decode("utf-8", "replace"), b""
            output += text
            if text:
                on_text(text)

        try:
            self.send(f'#include "{path}"')
            for _ in range(2):
                self.send(f"espalier_cell::end({self.cells});")
            for kind, content in self.messages():
                if kind == "text":
                    waiting += content
                elif kind == "display":
                    pass_on()
                    on_display(json.loads(content))
                elif content.split()[0] == str(self.cells).encode():
                    pass_on()
                    return content.split()[1].decode(), output
        except BrokenPipeError:
            pass
        pass_on()
        return "ended", output

    def stop(self):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def make_kernel():
    from ipykernel.kernelbase import Kernel

    class CppKernel(Kernel):
        implementation, implementation_version, banner = "espalier-notebook", "1", "C++20 on clang-repl"
        language_info = {"name": "C++", "version": "cxx20", "mimetype": "text/x-c++src", "file_extension": ".cpp",
                         "codemirror_mode": "text/x-c++src"}
        interpreter = None

        def stop_interpreter(self):
            if self.interpreter:
                self.interpreter.stop()
            self.interpreter = None

        def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False):
            def send(kind, content):
                if not silent:
                    self.send_response(self.iopub_socket, kind, content)

            self.interpreter = self.interpreter or Interpreter()
            try:
                state, output = self.interpreter.run(
                    code, f"In[{self.execution_count}]", lambda text: send("stream", {"name": "stdout", "text": text}),
                    lambda bundle: send("display_data", {"data": bundle, "metadata": {}, "transient": {}}))
            except KeyboardInterrupt:
                state, output = "interrupted", ""
            reply = {"status": "ok", "execution_count": self.execution_count, "payload": [], "user_expressions": {}}
            if state == "done":
                return reply
            if state != "failed":  # an exception nobody caught, a crash: the next cell starts anew
                self.stop_interpreter()
            error = {"ename": {"failed": "the cell does not compile or link"}.get(state, "the interpreter " + state),
                     "evalue": output.strip()[-2000:], "traceback": [output.strip()]}
            send("error", error)
            return dict(reply, status="error", **error)

        def do_shutdown(self, restart):
            self.stop_interpreter()
            return {"status": "ok", "restart": restart}

    return CppKernel


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] == "--install":
        install(sys.argv[2], sys.argv[3:])
    else:
        from ipykernel.kernelapp import IPKernelApp
        IPKernelApp.launch_instance(kernel_class=make_kernel())
