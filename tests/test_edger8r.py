"""The simulation's edge code generator: what it refuses, and that what it writes is what oeedger8r would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from golden.make_oeedger8r_prototypes import default_include, golden_lines, run_oeedger8r

ROOT = Path(__file__).resolve().parent.parent
EDGER8R = ROOT / "simulation" / "edger8r.py"
HEADERS = ROOT / "simulation" / "include"
BOUNDARY = ROOT / "edl" / "confidential_ml.edl"
SAMPLE = ROOT / "tests" / "edl" / "boundary_sample.edl"
GOLDEN = ROOT / "tests" / "golden" / "oeedger8r_prototypes.txt"


def generate(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [sys.executable, EDGER8R, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def generate_both(edl: Path, directory: Path) -> None:
    result = generate("--trusted-dir", directory, "--untrusted-dir", directory, edl)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def trusted(declarations: str) -> str:
    return f"enclave {{\n  trusted {{\n    {declarations}\n  }};\n}};\n"


def function(parameters: str) -> str:
    return trusted(f"public uint32_t f({parameters});")


REFUSED_FUNCTIONS = [
    ("[user_check] uint8_t* p", "attribute 'user_check' is not allowed"),
    ("[in, string] const char* p", "attribute 'string' is not allowed"),
    ("[in, wstring] const wchar_t* p", "attribute 'wstring' is not allowed"),
    ("[in, count=n] const uint8_t* p, size_t n", "attribute 'count' is not allowed"),
    ("[in, isptr] const uint8_t* p", "attribute 'isptr' is not allowed"),
    ("[in, isary] const uint8_t* p", "attribute 'isary' is not allowed"),
    ("[in, size=n, size=n] const uint8_t* p, size_t n", "attribute 'size' is not allowed"),
    ("[in, out, size=n] uint8_t* p, size_t n", "exactly one of in and out"),
    ("[in, in, size=n] const uint8_t* p, size_t n", "exactly one of in and out"),
    ("[size=n] const uint8_t* p, size_t n", "exactly one of in and out"),
    ("[in] const uint8_t* p", "size= is missing"),
    ("[] const uint8_t* p", "attribute ']' is not allowed"),
    ("[in, size=] const uint8_t* p", "size= needs a parameter's name or an integer"),
    ('[in, size="8"] const uint8_t* p', "size= needs a parameter's name or an integer"),
    ("[in, size=0] const uint8_t* p", "size=0 is not a decimal number from 1"),
    ("[in, size=010] const uint8_t* p", "size=010 is not a decimal number"),
    ("[in, size=2147483648] const uint8_t* p", "is not a decimal number from 1 to 2^31 - 1"),
    ("[in, size=0x10] const uint8_t* p", "'0x10]' is not allowed here"),
    ("[in, size=6] const float* p", "size=6 is no multiple of sizeof(float)"),
    ("[in, size=m] const uint8_t* p, size_t n", "size=m names no parameter of this function"),
    ("[in, size=n] const uint8_t* p, int32_t n", "size=n is not an unsigned integer"),
    ("[in, size=n] const uint8_t* p, float n", "size=n is not an unsigned integer"),
    ("[in, size=q] const uint8_t* p, [in, size=8] const uint64_t* q", "size=q is not an unsigned integer"),
    ("[in, size=p] const uint8_t* p", "size=p is not an unsigned integer"),
    ("const uint8_t* p", "pointer 'p' needs [in, size=...] or [out, size=...]"),
    ("uint8_t* p", "pointer 'p' needs [in, size=...] or [out, size=...]"),
    ("[in, size=8] const uint64_t p", "'p' has attributes but is no pointer"),
    ("[in, size=n] uint8_t* p, size_t n", "an [in] buffer must be const"),
    ("[out, size=n] const uint8_t* p, size_t n", "an [out] buffer must not"),
    ("[in, size=n] const uint8_t** p, size_t n", "only one level of pointer"),
    ("[in, size=n] const uint8_t* const p, size_t n", "only one level of pointer"),
    ("[in, size=n] const bool* p, size_t n", "a buffer of 'bool' is not allowed"),
    ("[in, size=n] const void* p, size_t n", "type 'void' is not allowed"),
    ("[in, size=n] const my_type* p, size_t n", "type 'my_type' is not allowed"),
    ("uint8_t p[4]", "array 'p' is not allowed"),
    ("[in] uint8_t p[4]", "size= is missing"),
    ("const uint32_t a", "const on the scalar 'a' is not allowed"),
    ("struct point p", "type 'struct' is not allowed"),
    ("enum colour c", "type 'enum' is not allowed"),
    ("unsigned int a", "type 'unsigned' is not allowed"),
    ("long a", "type 'long' is not allowed"),
    ("char a", "type 'char' is not allowed"),
    ("my_type a", "type 'my_type' is not allowed"),
    ("uint32_t a, uint32_t a", "there is already a parameter 'a'"),
    ("uint32_t enclave", "'enclave' is reserved"),
    ("uint32_t _retval", "'_retval' is reserved"),
    ("uint32_t oe_result", "'oe_result' is reserved"),
    ("uint32_t while", "'while' is reserved"),
    ("uint32_t", "expected the name of a parameter, found ')'"),
    ("uint32_t a,", "type ')' is not allowed"),
    ("uint32_t a uint32_t b", "expected ',', found 'uint32_t'"),
    ("...", "'...);' is not allowed here"),
]


@pytest.mark.parametrize(("parameters", "reason"), REFUSED_FUNCTIONS, ids=[each[0] for each in REFUSED_FUNCTIONS])
def test_parameter_is_refused(parameters: str, reason: str, tmp_path: Path) -> None:
    check_refused(function(parameters), 3, reason, tmp_path)


REFUSED_FILES = [
    ('enclave {\n  include "header.h"\n};', 2, "'include' is not allowed"),
    ("enclave {\n  struct point { uint32_t x; };\n};", 2, "'struct' is not allowed"),
    ("enclave {\n  union both { uint32_t x; };\n};", 2, "'union' is not allowed"),
    ("enclave {\n  enum colour { RED };\n};", 2, "'enum' is not allowed"),
    ('enclave {\n  import "other.edl"\n};', 2, "'import' is not allowed"),
    ('enclave {\n  from "openenclave/edl/syscall.edl" import *;\n};', 2, "only openenclave/edl/sgx/platform.edl"),
    ('enclave {\n  from "openenclave/edl/sgx/platform.edl" import f;\n};', 2, "expected '*', found 'f'"),
    ("enclave {\n  untrusted {\n    void log(uint32_t code);\n  };\n};", 3, "untrusted functions (ocalls) are not"),
    ("enclave {\n  untrusted {\n    void log(void) allow(f);\n  };\n};", 3, "untrusted functions (ocalls) are not"),
    (trusted("uint32_t f(void);"), 3, "a private ecall is not allowed"),
    (trusted("private uint32_t f(void);"), 3, "a private ecall is not allowed"),
    (trusted("public uint32_t f(void) transition_using_threads;"), 3, "'transition_using_threads' after an ecall"),
    (trusted("public uint32_t f(void) allow(g);"), 3, "'allow' after an ecall"),
    (trusted("public int32_t f(void);"), 3, "result type 'int32_t' is not allowed"),
    (trusted("public uint64_t f(void);"), 3, "result type 'uint64_t' is not allowed"),
    (trusted("public oe_result_t f(void);"), 3, "result type 'oe_result_t' is not allowed"),
    (trusted("public void* f(void);"), 3, "a pointer as result is not allowed"),
    (trusted("public void f(void);\n    public uint32_t\n      f(void);"), 5, "there is already a function 'f'"),
    (trusted("public void oe_terminate_enclave();"), 3, "'oe_terminate_enclave' is reserved"),
    (trusted("public void if();"), 3, "'if' is reserved"),
    (trusted("public void f()"), 4, "'}' after an ecall is not allowed"),
    ("enclave {\n#ifdef X\n};", 2, "preprocessor directives are not allowed"),
    ("enclave {\n  trusted { };\n};\n", 4, "there is no trusted function"),
    (trusted("public void f();") + "more", 6, "'more' after the end of the enclave"),
    ("/* one\n two */ enclave {\n  trusted\n", 4, "expected '{', found 'end of file'"),
    ("enclave {\n  /* never closed\n", 2, "an unclosed comment is not allowed"),
    ('enclave {\n  from "never closed\n', 2, "an unclosed string is not allowed"),
    ("\nstruct x;", 2, "expected 'enclave', found 'struct'"),
    ("", 1, "expected 'enclave', found 'end of file'"),
    (trusted("public void f(); @"), 3, "'@' is not allowed here"),
]


@pytest.mark.parametrize(("text", "line", "reason"), REFUSED_FILES)
def test_file_is_refused(text: str, line: int, reason: str, tmp_path: Path) -> None:
    check_refused(text, line, reason, tmp_path)


def check_refused(text: str, line: int, reason: str, directory: Path) -> None:
    edl = directory / "refused.edl"
    edl.write_text(text, encoding="ascii")
    result = generate(edl, cwd=directory)
    assert result.returncode == 1
    assert result.stderr.startswith(f"edger8r.py: {edl}:{line}: ")
    assert reason in result.stderr
    assert [path.name for path in directory.iterdir()] == ["refused.edl"], "nothing is written for a refused file"


def test_names_that_are_no_c_names_are_refused(tmp_path: Path) -> None:
    edl = tmp_path / "two-words.edl"
    edl.write_text(trusted("public void f();"), encoding="ascii")
    result = generate(edl, cwd=tmp_path)
    assert result.returncode == 1
    assert "becomes part of C names" in result.stderr


def test_bytes_outside_ascii_are_refused(tmp_path: Path) -> None:
    edl = tmp_path / "umlaut.edl"
    edl.write_bytes("// größe\n".encode() + trusted("public void f();").encode())
    result = generate(edl, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_options_are_those_of_oeedger8r(tmp_path: Path) -> None:
    both = {"boundary_sample_args.h"} | {f"boundary_sample_{side}.{kind}" for side in "tu" for kind in "hc"}
    for name, options in {"t": ["--trusted"], "u": ["--untrusted"], "": [], "tu": ["--trusted", "--untrusted"]}.items():
        directory = tmp_path / f"out{name}"
        directory.mkdir()
        result = generate(
            *options, "--search-path", tmp_path, f"--search-path={SAMPLE.parent}", SAMPLE.name, cwd=directory
        )
        assert result.returncode == 0, result.stderr
        one_side = {"boundary_sample_args.h", f"boundary_sample_{name}.h", f"boundary_sample_{name}.c"}
        assert {path.name for path in directory.iterdir()} == (one_side if len(name) == 1 else both)
    result = generate("--search-path", tmp_path, "nowhere.edl", cwd=tmp_path)
    assert result.returncode == 1
    assert "nowhere.edl: not found" in result.stderr


@pytest.mark.parametrize("edl", [BOUNDARY, SAMPLE], ids=["boundary", "sample"])
@pytest.mark.parametrize("compiler", ["gcc", "clang", "g++ -x c++ -std=c++17", "clang++ -x c++ -std=c++17"])
def test_output_compiles_without_a_warning(compiler: str, edl: Path, tmp_path: Path) -> None:
    program, *language = compiler.split()
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    generate_both(edl, tmp_path)
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wcast-qual", "-Wundef", "-Werror", "-O2"]
    for side in "tu":
        source = tmp_path / f"{edl.stem}_{side}.c"
        command: list[str | Path] = [program, *language, *warnings, f"-I{HEADERS}", "-c", source, "-o", os.devnull]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


def test_both_sides_agree_on_the_layout(tmp_path: Path) -> None:
    """The two sides are compiled apart; a difference between their structs would be read as something else."""
    generate_both(SAMPLE, tmp_path)

    def structs(side: str) -> list[str]:
        text = (tmp_path / f"{SAMPLE.stem}_{side}.c").read_text(encoding="ascii")
        return [part.split("_args_t;")[0] for part in text.split("typedef struct ")[1:]]

    assert structs("t") == structs("u")
    assert len(structs("t")) == 9


def test_prototypes_are_those_of_oeedger8r(tmp_path: Path) -> None:
    generate_both(BOUNDARY, tmp_path)
    assert golden_lines(tmp_path, BOUNDARY) == GOLDEN.read_text(encoding="ascii").splitlines()


@pytest.mark.parametrize("edl", [BOUNDARY, SAMPLE], ids=["boundary", "sample"])
def test_the_real_oeedger8r_agrees(edl: Path, tmp_path: Path) -> None:
    tool = os.environ.get("OEEDGER8R") or shutil.which("oeedger8r")
    if not tool:
        pytest.skip("oeedger8r of the Open Enclave SDK is neither on PATH nor named by OEEDGER8R")
    include = Path(os.environ.get("OEEDGER8R_INCLUDE") or default_include(tool))
    generate_both(edl, tmp_path)
    real = run_oeedger8r(tool, edl, include)
    assert golden_lines(tmp_path, edl) == real
    if edl == BOUNDARY:
        assert GOLDEN.read_text(encoding="ascii").splitlines() == real, "the golden file is out of date"
