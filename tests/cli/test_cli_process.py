"""The command as a process: pipes, bytes and what it imports. The fakes are those of conftest."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
START = f"""
import sys, runpy
import resight.recipes
fakes = runpy.run_path({str(HERE / "conftest.py")!r})
fakes["install"]()
Fake = fakes["FakeCollection"]
Fake.existing = {{"c": fakes["SIFT"]}}
Fake.answers = {{"a.jpg": fakes["FOUND"]}}
Fake.origins = {{1: "/one\\udcff.jpg", 3: "/three.jpg"}}
from resight.cli.main import main
"""


def start(program: str, *arguments: str) -> subprocess.Popen:
    source = str(HERE.parents[1] / "src")
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", START + program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"},
    )


def test_file_names_that_are_no_text_come_out_as_they_are():
    process = start("main()", "search", "c", "a.jpg", "-0")
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == (b"/three.jpg\0/one\xff.jpg\0", b"", 0)
    for form in ("--json", "--csv", "--all"):
        process = start("Fake.answers['a.jpg'] = fakes['FOUND'].top(2); main()", "search", "c", "a.jpg", form)
        _, err = process.communicate(timeout=60)
        assert (err, process.returncode) == (b"", 0)


def test_a_reader_that_leaves_is_no_error():
    # Few enough results for Python's buffer: the pipe breaks only at the last flush.
    process = start("main()", "search", "c", "a.jpg", "--paths")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert (err, process.returncode) == (b"", 141)


def test_a_defect_is_not_mistaken_for_nothing_found():
    process = start("Fake.answers['a.jpg'] = ZeroDivisionError('oops'); main()", "search", "c", "a.jpg")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3 and b"ZeroDivisionError: oops" in err and b"report" in err.splitlines()[-1]


def test_help_and_search_do_not_load_networks():
    program = "from contextlib import suppress\nwith suppress(SystemExit): main()\n"
    program += "heavy = {'torch', 'timm', 'faiss', 'cv2'} & set(sys.modules)\nsys.exit(sorted(heavy) or 0)"
    for arguments in (("--help",), ("search", "c", "a.jpg")):
        process = start(program, *arguments)
        _, err = process.communicate(timeout=60)
        assert (err, process.returncode) == (b"", 0)
