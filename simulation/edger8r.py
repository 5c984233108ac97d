#!/usr/bin/env python3
"""Generate the edge code of the simulation build from an EDL file.

Takes the options of Open Enclave's oeedger8r and writes files of the same names with the same prototypes, for the part
of EDL that this project allows: public ecalls returning uint32_t or nothing, scalars, and buffers of a stated size
that go one way, [in, size=n] or [out, size=n]. All else is refused: what cannot be written cannot be got wrong.

The generated C copies as oeedger8r's does, so a trusted function never sees host memory, and checks as it does. It has
no fences and no aligned copies (oeedger8r's measures against Spectre and CVE-2022-21233): a simulation has no secrets
from its host.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

# The SDK's own runtime calls. They have no counterpart in the simulation, so the file is not even opened.
PLATFORM_EDL = "openenclave/edl/sgx/platform.edl"

SIZEOF = {
    "int8_t": 1,
    "uint8_t": 1,
    "int16_t": 2,
    "uint16_t": 2,
    "int32_t": 4,
    "uint32_t": 4,
    "int64_t": 8,
    "uint64_t": 8,
    "size_t": 8,
    "float": 4,
    "double": 8,
}
SCALARS = SIZEOF.keys() | {"bool"}  # no bool*: a byte from outside that is neither 0 nor 1 is no bool
UNSIGNED = {"uint8_t", "uint16_t", "uint32_t", "uint64_t", "size_t"}
RESULTS = {"uint32_t", "void"}

# Words of C and C++, and names that the generated code (oeedger8r's or this one's) uses itself.
RESERVED = set(
    re.findall(
        r"\w+",
        """
        alignas alignof asm auto break case catch char class const constexpr continue default delete do else enum
        explicit export extern for friend goto if inline int long mutable namespace new nullptr operator private
        protected public register restrict return short signed sizeof static struct switch template this throw true
        try typedef typename union unsigned using virtual void volatile wchar_t while

        enclave global_id oe_result oe_retval call deepcopy_out_buffer deepcopy_out_buffer_size
        """,
    )
).union(SCALARS)

TOKEN = re.compile(
    r"(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9]+(?![A-Za-z0-9_.]))"
    r'|(?P<string>"[^"\n]*")|(?P<punctuation>[{}()\[\]*,;=])',
    re.DOTALL,
)


class EdlError(Exception):
    """The EDL file is refused; the text says where and why."""


@dataclass(frozen=True)
class Token:
    """A word of the EDL file: a name, number, string or punctuation mark, or the end."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Parameter:
    """A scalar, or a buffer with its direction and size."""

    name: str
    type: str
    line: int
    direction: str = ""  # "in", "out", or "" for a scalar
    size: str = ""  # a parameter's name or an integer literal

    @property
    def declared_type(self) -> str:
        """Its type in C, the same on both sides."""
        if not self.direction:
            return self.type
        return f"const {self.type}*" if self.direction == "in" else f"{self.type}*"


@dataclass(frozen=True)
class Function:
    """One ecall."""

    name: str
    result: str
    parameters: tuple[Parameter, ...]


def tokens(text: str, path: str) -> Iterator[Token]:
    """Split the text of an EDL file into tokens, leaving out white space and comments."""
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            what = {"#": "preprocessor directives are", "/": "an unclosed comment is", '"': "an unclosed string is"}
            reason = what.get(text[position], f"{text[position : position + 12].split()[0]!r} is")
            raise EdlError(f"{path}:{line}: {reason} not allowed here")
        if match.lastgroup != "skip":
            yield Token(match.lastgroup or "", match.group(), line)
        line += match.group().count("\n")
        position = match.end()
    yield Token("end", "end of file", line)


class Parser:
    """Recursive descent over the allowed subset; every method takes the tokens of what it is named after."""

    def __init__(self, text: str, path: str) -> None:
        self._path = path
        self._tokens = list(tokens(text, path))
        self._position = 0
        self._functions: list[Function] = []

    def parse(self) -> list[Function]:
        """Return the ecalls of the file, or raise EdlError."""
        self._expect("enclave")
        self._expect("{")
        while not self._accept("}"):
            self._section()
        self._accept(";")
        if self._peek().kind != "end":
            self._refuse(self._peek(), f"{self._peek().text!r} after the end of the enclave")
        if not self._functions:
            self._refuse(self._peek(), "there is no trusted function")
        return self._functions

    def _section(self) -> None:
        token = self._next()
        if token.text == "from":
            self._from_import()
        elif token.text == "trusted":
            self._trusted()
        elif token.text == "untrusted":
            self._untrusted()
        elif token.text in {"struct", "union", "enum", "include", "import"}:
            self._refuse(token, f"{token.text!r} is not allowed: only scalars and sized buffers cross the boundary")
        else:
            self._refuse(token, f"unexpected {token.text!r}")

    def _from_import(self) -> None:
        token = self._next()
        if token.text != f'"{PLATFORM_EDL}"':
            self._refuse(token, f"only {PLATFORM_EDL} may be imported")
        self._expect("import")
        self._expect("*")
        self._expect(";")

    def _trusted(self) -> None:
        self._expect("{")
        while not self._accept("}"):
            token = self._next()
            if token.text != "public":
                self._refuse(token, "a private ecall is not allowed: write 'public'")
            self._function()
        self._expect(";")

    def _untrusted(self) -> None:
        self._expect("{")
        if self._peek().text != "}":
            self._refuse(self._peek(), "untrusted functions (ocalls) are not allowed")
        self._expect("}")
        self._expect(";")

    def _function(self) -> None:
        result = self._next()
        if result.text not in RESULTS:
            self._refuse(result, f"result type {result.text!r} is not allowed, only uint32_t and void")
        if self._peek().text == "*":
            self._refuse(result, "a pointer as result is not allowed")
        name = self._new_name("function", {function.name for function in self._functions})
        parameters = self._parameters()
        after = self._next()
        if after.text != ";":
            self._refuse(after, f"{after.text!r} after an ecall is not allowed")
        self._check_sizes(parameters)
        self._functions.append(Function(name, result.text, parameters))

    def _parameters(self) -> tuple[Parameter, ...]:
        parameters: list[Parameter] = []
        self._expect("(")
        if self._peek().text == "void":
            self._next()
            self._expect(")")
            return ()
        while not self._accept(")"):
            if parameters:
                self._expect(",")
            parameters.append(self._parameter({parameter.name for parameter in parameters}))
        return tuple(parameters)

    def _parameter(self, taken: set[str]) -> Parameter:
        start = self._peek()
        direction, size = self._attributes()
        constant = self._accept("const")
        base = self._type(pointer_expected=bool(direction))
        pointer = self._accept("*")
        if self._peek().text in {"*", "const"}:
            self._refuse(start, "only one level of pointer is allowed")
        name = self._new_name("parameter", taken)
        if self._peek().text == "[":
            self._refuse(start, f"array {name!r} is not allowed: use a pointer with size=")
        self._check_pointer(start, name, direction, constant, pointer)
        return Parameter(name, base, start.line, direction, size)

    def _attributes(self) -> tuple[str, str]:
        if not self._accept("["):
            return "", ""
        directions: list[str] = []
        size = ""
        while True:
            token = self._next()
            if token.text in {"in", "out"}:
                directions.append(token.text)
            elif token.text == "size" and not size:
                self._expect("=")
                size = self._size_value()
            else:
                self._refuse(token, f"attribute {token.text!r} is not allowed here, only one of in, out, and size=")
            if self._accept("]"):
                break
            self._expect(",")
        if len(directions) != 1:
            self._refuse(token, "exactly one of in and out is needed: a buffer goes one way")
        if not size:
            self._refuse(token, "size= is missing")
        return directions[0], size

    def _size_value(self) -> str:
        token = self._next()
        if token.kind not in {"name", "number"}:
            self._refuse(token, f"size= needs a parameter's name or an integer, not {token.text!r}")
        if token.kind == "number" and (token.text != str(int(token.text)) or not 0 < int(token.text) < 2**31):
            self._refuse(token, f"size={token.text} is not a decimal number from 1 to 2^31 - 1")
        return token.text

    def _type(self, pointer_expected: bool) -> str:
        token = self._next()
        if token.text not in SCALARS:
            self._refuse(token, f"type {token.text!r} is not allowed")
        if pointer_expected and token.text not in SIZEOF:
            self._refuse(token, f"a buffer of {token.text!r} is not allowed")
        return token.text

    def _check_pointer(self, start: Token, name: str, direction: str, constant: bool, pointer: bool) -> None:
        if pointer and not direction:
            self._refuse(start, f"pointer {name!r} needs [in, size=...] or [out, size=...]")
        if direction and not pointer:
            self._refuse(start, f"{name!r} has attributes but is no pointer")
        if constant and not pointer:
            self._refuse(start, f"const on the scalar {name!r} is not allowed")
        if pointer and constant != (direction == "in"):
            # The enclave has a copy: what it wrote to an [in] buffer would be lost.
            self._refuse(start, f"{name!r}: an [in] buffer must be const and an [out] buffer must not")

    def _check_sizes(self, parameters: tuple[Parameter, ...]) -> None:
        by_name = {parameter.name: parameter for parameter in parameters}
        for parameter in parameters:
            if not parameter.direction:
                continue
            where = Token("name", parameter.name, parameter.line)
            if parameter.size.isdigit():
                if int(parameter.size) % SIZEOF[parameter.type]:
                    self._refuse(where, f"size={parameter.size} is no multiple of sizeof({parameter.type})")
                continue
            size = by_name.get(parameter.size)
            if size is None:
                self._refuse(where, f"size={parameter.size} names no parameter of this function")
            if size.direction or size.type not in UNSIGNED:
                # A negative number would become a size close to 2^64.
                self._refuse(where, f"size={parameter.size} is not an unsigned integer")

    def _new_name(self, what: str, taken: set[str]) -> str:
        token = self._next()
        if token.kind != "name":
            self._refuse(token, f"expected the name of a {what}, found {token.text!r}")
        if token.text in RESERVED or token.text.startswith(("_", "oe_", "ecall_")):
            self._refuse(token, f"{token.text!r} is reserved and cannot name a {what}")
        if token.text in taken:
            self._refuse(token, f"there is already a {what} {token.text!r}")
        return token.text

    def _peek(self) -> Token:
        return self._tokens[self._position]

    def _next(self) -> Token:
        token = self._peek()
        if token.kind == "end":
            self._refuse(token, "the file ends in the middle of the enclave")
        self._position += 1
        return token

    def _accept(self, text: str) -> bool:
        if self._peek().text != text:
            return False
        self._position += 1
        return True

    def _expect(self, text: str) -> None:
        token = self._peek()
        if not self._accept(text):
            self._refuse(token, f"expected {text!r}, found {token.text!r}")

    def _refuse(self, token: Token, reason: str) -> NoReturn:
        raise EdlError(f"{self._path}:{token.line}: {reason}")


BANNER = "/* Generated by edger8r.py for the simulation build, which protects nothing. Do not edit. */\n"


def prototype(function: Function, trusted: bool) -> str:
    """Declare an ecall as one side sees it, in oeedger8r's words."""
    arguments = [f"{parameter.declared_type} {parameter.name}" for parameter in function.parameters]
    result = function.result
    if not trusted:
        result = "oe_result_t"
        retval = [] if function.result == "void" else [f"{function.result}* _retval"]
        arguments = ["oe_enclave_t* enclave", *retval, *arguments]
    if len(arguments) < 2:
        return f"{result} {function.name}({arguments[0] if arguments else 'void'})"
    separator = ",\n    "
    return f"{result} {function.name}(\n    {separator.join(arguments)})"


def create_prototype(name: str) -> str:
    """Declare the function that creates an enclave with this boundary."""
    return f"""oe_result_t oe_create_{name}_enclave(
    const char* path,
    oe_enclave_type_t type,
    uint32_t flags,
    const oe_enclave_setting_t* settings,
    uint32_t setting_count,
    oe_enclave_t** enclave)"""


def header(name: str, functions: list[Function], trusted: bool) -> str:
    """Return the text of FILE_t.h or FILE_u.h."""
    side, include = ("t", "enclave") if trusted else ("u", "host")
    prototypes = [] if trusted else [create_prototype(name)]
    prototypes += [prototype(function, trusted) for function in functions]
    guard = f"EDGER8R_{name.upper()}_{side.upper()}_H"
    return (
        f"{BANNER}#ifndef {guard}\n#define {guard}\n\n#include <openenclave/{include}.h>\n\n"
        f'#include "{name}_args.h"\n\nOE_EXTERNC_BEGIN\n\n'
        + "".join(f"{each};\n\n" for each in prototypes)
        + f"OE_EXTERNC_END\n\n#endif // {guard}\n"
    )


def args_header(name: str) -> str:
    """Return the text of FILE_args.h, which both headers include."""
    guard = f"EDGER8R_{name.upper()}_ARGS_H"
    return (
        f"{BANNER}#ifndef {guard}\n#define {guard}\n\n#include <openenclave/bits/result.h>\n\n"
        f"/* Only scalars and buffers cross the boundary: no types to declare. */\n\n#endif // {guard}\n"
    )


def marshalling_struct(function: Function) -> str:
    """Define what stands at the start of both call buffers."""
    fields = [] if function.result == "void" else [f"{function.result} oe_retval"]
    fields += [f"{parameter.declared_type} {parameter.name}" for parameter in function.parameters]
    lines = "".join(f"    {field};\n" for field in ["oe_call_function_return_args_t call", *fields])
    return f"typedef struct _{function.name}_args_t\n{{\n{lines}}} {function.name}_args_t;\n\n"


def checked(call: str, indent: str = "    ") -> str:
    """Make a call whose result may end the function."""
    return f"{indent}if ((_result = {call}) != OE_OK)\n{indent}    goto done;\n"


def size_of(parameter: Parameter) -> str:
    """Return the bytes of a buffer in C. The number is read from _args, the side's own copy of the arguments."""
    return parameter.size if parameter.size.isdigit() else f"(size_t)_args.{parameter.size}"


def buffers(function: Function, direction: str) -> list[Parameter]:
    """Return the [in] or the [out] buffers of an ecall."""
    return [parameter for parameter in function.parameters if parameter.direction == direction]


def set_pointers(function: Function, direction: str) -> str:
    """Point _args into the enclave's copies. NULL stays NULL whatever its size, as with oeedger8r."""
    side, constant = ("input", "const ") if direction == "in" else ("output", "")
    return "".join(
        f"    if (_args.{parameter.name})\n    {{\n"
        f"        _args.{parameter.name} =\n"
        f"            ({parameter.declared_type})({constant}void*)({side}_buffer + _{side}_offset);\n"
        + checked(f"oe_take_size(&_{side}_offset, {size_of(parameter)}, {side}_buffer_size)", " " * 8)
        + "    }\n"
        for parameter in buffers(function, direction)
    )


def trusted_function(function: Function) -> str:
    """Define the function that unpacks the call buffers inside and calls the ecall."""
    call = f"{function.name}({', '.join(f'_args.{parameter.name}' for parameter in function.parameters)})"
    output = ""
    if function.result != "void":
        output = f"    {function.name}_args_t* _output = ({function.name}_args_t*)(void*)output_buffer;\n"
        call = f"_output->oe_retval = {call}"
    return f"""static void ecall_{function.name}(
    const uint8_t* input_buffer,
    size_t input_buffer_size,
    uint8_t* output_buffer,
    size_t output_buffer_size,
    size_t* output_bytes_written)
{{
    oe_result_t _result = OE_FAILURE;
    {function.name}_args_t _args;
{output}    size_t _input_offset = 0;
    size_t _output_offset = 0;

{checked("oe_take_size(&_input_offset, sizeof(_args), input_buffer_size)")}\
{checked("oe_take_size(&_output_offset, sizeof(_args), output_buffer_size)")}\
    memcpy(&_args, input_buffer, sizeof(_args));

{set_pointers(function, "in")}{set_pointers(function, "out")}\
    {call};
    *output_bytes_written = _output_offset;
    _result = OE_OK;

done:
    /* enclave_runtime.cpp hands over no output buffer that is too small for this. */
    ((oe_call_function_return_args_t*)(void*)output_buffer)->result = _result;
}}

"""


def trusted_source(name: str, functions: list[Function]) -> str:
    """Return the text of FILE_t.c."""
    table = "".join(f"    ecall_{function.name},\n" for function in functions)
    return (
        f'{BANNER}#include "{name}_t.h"\n\n#include <openenclave/edger8r/enclave.h>\n\n#include <string.h>\n\n'
        "OE_EXTERNC_BEGIN\n\n"
        + "".join(marshalling_struct(function) for function in functions)
        + "".join(trusted_function(function) for function in functions)
        + f"const oe_ecall_func_t oe_ecalls_table[] = {{\n{table}}};\n\n"
        + "const size_t oe_ecalls_table_size = sizeof(oe_ecalls_table) / sizeof(oe_ecalls_table[0]);\n\n"
        + "OE_EXTERNC_END\n"
    )


def add_sizes(function: Function, direction: str, total: str) -> str:
    """Add up a call buffer; NULL takes no room."""
    result = checked(f"oe_add_size(&{total}, sizeof(_args))")
    for parameter in buffers(function, direction):
        result += f"    if ({parameter.name})\n    {{\n"
        result += checked(f"oe_add_size(&{total}, {size_of(parameter)})", " " * 8) + "    }\n"
    return result


def copy_buffers(function: Function, direction: str) -> str:
    """Copy between the caller's buffers and the flat one; the sizes were added up without overflow before."""
    result = ""
    for parameter in buffers(function, direction):
        size = size_of(parameter)
        copy = f"memcpy(_input + _offset, {parameter.name}, {size})"
        if direction == "out":
            copy = f"memcpy({parameter.name}, _output + _offset, {size})"
        result += f"    if ({parameter.name})\n    {{\n        {copy};\n"
        result += checked(f"oe_add_size(&_offset, {size})", " " * 8) + "    }\n"
    if result:
        result = f"    _offset = 0;\n{checked('oe_add_size(&_offset, sizeof(_args))')}{result}"
    return result


def untrusted_function(function: Function, number: int) -> str:
    """Define the function that the host calls for an ecall."""
    fill = "".join(f"    _args.{parameter.name} = {parameter.name};\n" for parameter in function.parameters)
    offset = "    size_t _offset = 0;\n" if buffers(function, "in") or buffers(function, "out") else ""
    retval = "" if function.result == "void" else "    *_retval = _returned.oe_retval;\n"
    return f"""{prototype(function, trusted=False)}
{{
    oe_result_t _result = OE_FAILURE;
    {function.name}_args_t _args;
    {function.name}_args_t _returned;
    size_t _input_size = 0;
    size_t _output_size = 0;
    size_t _total_size = 0;
    size_t _written = 0;
{offset}    uint8_t* _input = NULL;
    uint8_t* _output = NULL;

    memset(&_args, 0, sizeof(_args));
{fill}
{add_sizes(function, "in", "_input_size")}{add_sizes(function, "out", "_output_size")}\
{checked("oe_add_size(&_total_size, _input_size)")}{checked("oe_add_size(&_total_size, _output_size)")}
    _input = (uint8_t*)malloc(_total_size);
    if (!_input)
    {{
        _result = OE_OUT_OF_MEMORY;
        goto done;
    }}
    _output = _input + _input_size;
    memcpy(_input, &_args, sizeof(_args));
{copy_buffers(function, "in")}
    _result = oe_call_enclave_function(
        enclave, {number}, _input, _input_size, _output, _output_size, &_written);
    if (_result != OE_OK)
        goto done;
    if (_written != _output_size)
    {{
        _result = OE_FAILURE;
        goto done;
    }}
    memcpy(&_returned, _output, sizeof(_returned));
    if ((_result = _returned.call.result) != OE_OK)
        goto done;
{retval}{copy_buffers(function, "out")}
done:
    free(_input);
    return _result;
}}

"""


def untrusted_source(name: str, functions: list[Function]) -> str:
    """Return the text of FILE_u.c."""
    names = "".join(f'    {{"{function.name}"}},\n' for function in functions)
    return (
        f'{BANNER}#include "{name}_u.h"\n\n#include <openenclave/edger8r/host.h>\n\n'
        "#include <stdlib.h>\n#include <string.h>\n\nOE_EXTERNC_BEGIN\n\n"
        + "".join(marshalling_struct(function) for function in functions)
        + "".join(untrusted_function(function, number) for number, function in enumerate(functions))
        + f"static const oe_ecall_info_t _{name}_ecall_info_table[] = {{\n{names}}};\n\n"
        + f"{create_prototype(name)}\n{{\n    return oe_create_enclave(\n        path,\n        type,\n        flags,\n"
        + "        settings,\n        setting_count,\n        NULL,\n        0,\n"
        + f"        _{name}_ecall_info_table,\n        {len(functions)},\n        enclave);\n}}\n\nOE_EXTERNC_END\n"
    )


def generate(name: str, functions: list[Function], trusted: bool, directory: Path) -> None:
    """Write the three files of one side."""
    side, source = ("t", trusted_source) if trusted else ("u", untrusted_source)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}_args.h").write_text(args_header(name), encoding="ascii")
    (directory / f"{name}_{side}.h").write_text(header(name, functions, trusted), encoding="ascii")
    (directory / f"{name}_{side}.c").write_text(source(name, functions), encoding="ascii")


def find(file: str, search_path: list[Path]) -> Path:
    """Return the path of the EDL file, or raise EdlError."""
    for candidate in [Path(file), *(directory / file for directory in search_path)]:
        if candidate.is_file():
            return candidate
    raise EdlError(f"{file}: not found, nor in the search path")


def main(arguments: list[str]) -> int:
    """Run the generator."""
    parser = argparse.ArgumentParser(description="Generate simulation edge code from an EDL file.", allow_abbrev=False)
    parser.add_argument("--trusted", action="store_true", help="write FILE_t.h, FILE_t.c, FILE_args.h")
    parser.add_argument("--untrusted", action="store_true", help="write FILE_u.h, FILE_u.c, FILE_args.h")
    parser.add_argument("--search-path", action="append", type=Path, default=[], metavar="DIR")
    parser.add_argument("--trusted-dir", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--untrusted-dir", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("file", metavar="FILE.edl")
    options = parser.parse_args(arguments)
    try:
        path = find(options.file, options.search_path)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", path.stem):
            raise EdlError(f"{path}: the file's name becomes part of C names and must be one")
        functions = Parser(path.read_text(encoding="ascii"), str(path)).parse()
    except (EdlError, UnicodeDecodeError) as error:
        print(f"edger8r.py: {error}", file=sys.stderr)
        return 1
    both = not options.trusted and not options.untrusted  # as oeedger8r
    if options.trusted or both:
        generate(path.stem, functions, True, options.trusted_dir)
    if options.untrusted or both:
        generate(path.stem, functions, False, options.untrusted_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
