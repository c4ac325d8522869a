"""Writes an executable file that holds both modules: `executable.py TARGET [INTERPRETER]`.

The file is a zip archive behind a #! line, like those that the standard library's zipapp makes, with two differences
for the time that a start takes. The #! line gives the interpreter a command that runs the archive's __main__, where
running the archive itself would import runpy first; `python3 TARGET` works as well. And __main__.pyc has the bytecode
of both modules in it, for the Python that runs this; any other Python finds the sources.

Without INTERPRETER, an absolute path, env looks for python3 on PATH. Equal sources, Pythons and arguments give equal
files, byte for byte.
"""

import ast
import importlib.util
import marshal
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("protocol", "spider_executor")

COMMAND = "import sys,zipimport as z;exec(z.zipimporter(sys.argv[1]).get_code('__main__'))"
# Kernels before 5.1 read 128 bytes, later ones 256.
FIRST_LINE_MAX = 255

START = """\
import gc
import sys

# What is made at start is kept: there is nothing to collect.
gc.disable()
if sys.argv[0] == "-c":
    del sys.argv[0]
if len(sys.argv) == 1:
    # An executor that is interrupted while it starts has nothing to say. The module signal would import much.
    import _signal

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
"""
FINISH = f"""\
spider_executor._archive = ({COMMAND!r}, sys.argv[0])
gc.enable()
sys.exit(spider_executor.main())
"""
FROM_SOURCES = """\
sys.path.insert(0, sys.argv[0])
import spider_executor
"""
# The string stands for what main puts in its place: the names of the modules and their code. That of the command line
# is apart, since an executor does without it.
FROM_BYTECODE = """\
for name, code in "modules":
    spider_executor = sys.modules[name] = type(sys)(name)
    exec(code, spider_executor.__dict__)
if len(sys.argv) == 1:
    gc.enable()
    spider_executor.serve_process()
import marshal
import zipimport
archive = zipimport.zipimporter(sys.argv[0])
exec(marshal.loads(archive.get_data("command_line")), spider_executor.__dict__)
"""
COMMAND_LINE = re.compile(r"^# -+ command line$", re.MULTILINE)

# Not to be checked against the sources: https://peps.python.org/pep-0552/
UNCHECKED_HASH = (0b01).to_bytes(4, "little")


class Strip(ast.NodeTransformer):
    """Leaves out annotations, and with them an import: only type checkers read them, from the sources."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node):
        replacement = ast.Pass() if node.value is None else ast.Assign([node.target], node.value)
        return ast.copy_location(replacement, node)

    def visit_ImportFrom(self, node):
        return None if node.module == "__future__" else node


def compiled(name, source):
    """A module's code, without docstrings."""
    tree = ast.fix_missing_locations(Strip().visit(ast.parse(source)))
    return compile(tree, f"{name}.py", "exec", dont_inherit=True, optimize=2)


def first_line(interpreter):
    line = f'#!/usr/bin/env -S python3 -ISc "{COMMAND}"' if interpreter is None else f"#!{interpreter} -ISc{COMMAND}"
    if len(line) > FIRST_LINE_MAX:
        sys.exit(f"executable.py: the interpreter's path is too long for a #! line: {interpreter}")
    return line + "\n"


def main(target, interpreter=None):
    sources = {name: (ROOT / f"{name}.py").read_text(encoding="utf-8") for name in MODULES}
    served, command_line = COMMAND_LINE.split(sources["spider_executor"])
    modules = (
        ("protocol", compiled("protocol", sources["protocol"])),
        ("spider_executor", compiled("spider_executor", served)),
    )
    # Blank lines in front keep the numbers of the lines.
    command_line = compiled("spider_executor", "\n" * served.count("\n") + command_line)
    start = compiled("__main__", START + FROM_BYTECODE + FINISH)
    start = start.replace(co_consts=tuple(modules if value == "modules" else value for value in start.co_consts))

    sources["__main__"] = START + FROM_SOURCES + FINISH
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(sources["__main__"].encode())
    members = [("__main__.pyc", header + marshal.dumps(start)), ("command_line", marshal.dumps(command_line))]
    members += [(f"{name}.py", source) for name, source in sources.items()]

    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(first_line(interpreter).encode())
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members:
                archive.writestr(zipfile.ZipInfo(name), data)
    target.chmod(0o755)


main(*sys.argv[1:])
