"""Rules that the code base itself keeps: who may include and import whom, and what is said in two places agrees."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_origin

import flat_reader
import pytest

import confidential_ml as cml
from confidential_ml import flat_model, sealed_file

if TYPE_CHECKING:
    from conftest import RunPython

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "confidential_ml"
FORMATS = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")

# Names in the platform column of the rest of this file: hand-written trusted code and its neighbours.
ENCLAVE = sorted((ROOT / "enclave").glob("*.cpp")) + sorted((ROOT / "enclave").glob("*.h"))
HOST = sorted((ROOT / "host").glob("*.cpp")) + sorted((ROOT / "host").glob("*.h*"))
COMMON = sorted((ROOT / "common").glob("*"))
TRUSTED_LINES = 5_800
# Only the simulation is built from these.
UNTRUSTED_FORMS = {"platform_simulation", "cpu_portable", "kernel_portable", "transform_portable"}

# Calls go down only. A file includes files of its own floor or of floors below.
FLOORS = [
    {"ecalls"},
    {"confidential_request"},
    {"channel", "receipt"},
    {"claims", "prediction"},
    {"registry"},
    {"sealing", "forest", "guarded", "replay_set", "known_senders"},
    {"model", "platform", "platform_openenclave", "platform_simulation", "plan", "row_plan", "hpke", "signature"}
    | {
        "kernel",
        "kernel_encode_steps",
        "kernel_steps",
        "kernel_row_steps",
        "category",
        "kernel_avx2",
        "kernel_portable",
    },
    {"objective", "crypto", "cpu", "cpu_avx2", "cpu_portable", "key_request"},
    {"transform", "transform_avx2", "transform_portable"},
    {"float_math", "powers_of_two", "masks", "secret_memory"},
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def includes(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return [name.strip('<">') for name in re.findall(r'^\s*#\s*include\s+(<[^>]+>|"[^"]+")', text, re.MULTILINE)]


def tracked_files() -> list[Path]:
    """Files that belong to the repository: what git tracks or would, or all but what is built."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found = [ROOT / name for name in listed]
    except (OSError, subprocess.CalledProcessError):
        outside = {"build", "dist"}
        found = [p for p in ROOT.rglob("*") if not any(s in outside or s[0] == "." for s in p.relative_to(ROOT).parts)]
    return [path for path in found if path.is_file()]


# ---- C++: who includes whom -----------------------------------------------------------------------------------------


def is_standard(name: str) -> bool:
    return re.fullmatch(r"[a-z_0-9]+", name) is not None


def is_compiler(name: str) -> bool:
    return name in {"immintrin.h", "cpuid.h"}


def test_only_the_platform_file_includes_open_enclave_in_trusted_code() -> None:
    users = {path.name for path in ENCLAVE for name in includes(path) if name.startswith("openenclave/")}
    assert users == {"platform_openenclave.cpp"}


def test_trusted_code_includes_only_what_is_trusted() -> None:
    strangers = [
        (path.name, name)
        for path in ENCLAVE
        for name in includes(path)
        if not (
            name.startswith(("common/", "enclave/"))
            or is_standard(name)
            or is_compiler(name)
            or (name.startswith("openssl/") and path.name in {"crypto.cpp", "signature.cpp"})
            or (name == "sys/random.h" and path.name == "platform_simulation.cpp")
            or (name.startswith("openenclave/") and path.name == "platform_openenclave.cpp")
            or (name == "simulation/simulated_identity.h" and path.name == "platform_simulation.cpp")
            or (name == "confidential_ml_t.h" and path.name == "ecalls.cpp")
        )
    ]
    assert strangers == []


def test_calls_go_down_between_the_files_of_the_enclave() -> None:
    upwards = []
    for path in ENCLAVE:
        assert path.stem in FLOOR, f"{path.name}: give it a floor in this test"
        for name in includes(path):
            if name.startswith("enclave/") and FLOOR[Path(name).stem] < FLOOR[path.stem]:
                upwards.append((path.name, name))
    assert upwards == []


def test_nobody_includes_in_circles() -> None:
    graph = {
        path.stem: {Path(n).stem for n in includes(path) if n.startswith("enclave/")}
        for path in ENCLAVE
        if path.suffix == ".h"
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join((*above, name))}"
        if name not in done:
            for below in graph.get(name, ()):
                visit(below, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_host_never_includes_the_enclave() -> None:
    assert [(p.name, n) for p in HOST for n in includes(p) if n.startswith(("enclave/", "simulation/"))] == []


def test_common_code_includes_nothing_of_the_others() -> None:
    assert [(p.name, n) for p in COMMON for n in includes(p) if not (n.startswith("common/") or is_standard(n))] == []


def test_only_cmake_chooses_the_platform() -> None:
    """No conditional compilation in trusted code but include guards and what refuses a compiler option."""
    directive = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b(.*)", re.MULTILINE)
    found = [
        (path.name, condition)
        for path in ENCLAVE
        for kind, condition in directive.findall(path.read_text(encoding="utf-8"))
        if not (kind == "ifndef" and condition.strip().endswith("_H_")) and condition.strip() != "__FAST_MATH__"
    ]
    assert found == []


def test_trusted_code_can_be_read_in_one_sitting() -> None:
    """Lines of code that an SGX image is built from: comments and blank lines make the reading easier, not longer."""
    trusted = [path for path in [*ENCLAVE, *COMMON] if path.stem not in UNTRUSTED_FORMS]
    lines = [line.strip() for path in trusted for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(line) and not line.startswith("//") for line in lines) < TRUSTED_LINES


# ---- Python: who imports whom ---------------------------------------------------------------------------------------

WITHOUT_EXTENSION = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name == "confidential_ml._core":
            raise ImportError("blocked by the test")
sys.meta_path.insert(0, Refuse())
"""
NEEDS_NO_EXTENSION = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)


def test_every_module_imports_without_the_extension(run_python: RunPython) -> None:
    lines = [f"import {name}" for name in NEEDS_NO_EXTENSION]
    result = run_python(WITHOUT_EXTENSION + "\n".join(lines) + "\nassert 'confidential_ml._core' not in sys.modules")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_relying_party_needs_no_extension(run_python: RunPython, regression_file: Path, tmp_path: Path) -> None:
    sealed = tmp_path / "model.sealed"
    info = cml.seal(regression_file, sealed, model_id="relying")
    code = """
import hashlib
import confidential_ml as cml
from confidential_ml.xgboost_format import to_flat_model
info = cml.inspect_sealed(sys.argv[1])
assert hashlib.sha256(to_flat_model(sys.argv[2])).hexdigest() == info.model_digest
for attempt in (cml.Enclave, lambda: cml.ConfidentialModel.load_sealed(sys.argv[1])):
    try:
        attempt()
    except cml.EnclaveError as error:
        print(error)
"""
    result = run_python(WITHOUT_EXTENSION + code, sealed, regression_file)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("this installation of confidential_ml has no enclave") == 2
    assert info.model_id == "relying"


def test_importing_the_package_imports_no_library_of_models(run_python: RunPython) -> None:
    code = """
import sys, confidential_ml
unwanted = {"xgboost", "sklearn", "pandas", "scipy", "polars", "pyarrow", "confidential_ml._core"} & set(sys.modules)
assert not unwanted, unwanted
"""
    result = run_python(code)
    assert (result.returncode, result.stderr) == (0, "")


# What a room of the package may import besides: its extra's packages (pyproject.toml).
OF_EXTRAS = {
    "server": {
        *{
            "httptools",
            "msgspec",
            "prometheus_client",
            "pyarrow",
            "pydantic",
            "pydantic_settings",
            "starlette",
            "uvicorn",
        },
    },
    "client": {"anyio", "httpcore", "httpx"},
    "cli": {"click", "pyarrow", "rich", "typer", "xgboost"},  # xgboost: `bench` compares with it if it is there
}


def imported_by(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def test_the_package_imports_its_dependencies_the_standard_library_and_itself() -> None:
    import sys

    allowed = {*sys.stdlib_module_names, "cryptography", "numpy", "confidential_ml"}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        assert imported_by(path) <= allowed | OF_EXTRAS.get(room, set()), path
    server = set().union(*(imported_by(path) for path in (PACKAGE / "server").rglob("*.py")))
    assert server >= OF_EXTRAS["server"] - {"pyarrow"}  # by importlib


# ---- what is said twice agrees --------------------------------------------------------------------------------------


def test_the_version_is_stated_once() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert cml.__version__ == version
    stating = {"pyproject.toml", "CHANGELOG.md"}
    again = [
        path.relative_to(ROOT)
        for path in tracked_files()
        if path.suffix in {".py", ".txt", ".cmake", ".cpp", ".h", ".in", ".toml", ".json", ".md", ".pyi"}
        and path.name not in stating
        and "fixtures" not in path.parts
        and re.search(rf"version\w*\W{{1,6}}{re.escape(version)}\b", path.read_text(encoding="utf-8"), re.IGNORECASE)
    ]
    assert again == []


def stub_functions() -> Iterator[tuple[str, list[str], str]]:
    tree = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    (enclave,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Enclave"]
    for node in enclave.body:
        assert isinstance(node, ast.FunctionDef)
        decorator = ast.unparse(node.decorator_list[0]) if node.decorator_list else ""
        yield node.name, [argument.arg for argument in node.args.args if argument.arg != "self"], decorator


def test_the_stub_says_what_the_extension_has() -> None:
    from confidential_ml import _core

    public: Any = _core.Enclave
    there = {name for name in vars(public) if not name.startswith("_") or name == "__init__"}
    assert there == {name for name, _, _ in stub_functions()}
    for name, parameters, decorator in stub_functions():
        member = inspect.getattr_static(public, name)
        assert isinstance(member, property) == (decorator == "property"), name
        if decorator != "property":
            signature = str(getattr(public, name).__doc__).splitlines()[0]
            assert re.findall(r"(?<=, )(\w+)(?=:)", signature) == parameters, name
    tree = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    values = {
        ast.unparse(node.target): ast.unparse(node.annotation) for node in tree.body if isinstance(node, ast.AnnAssign)
    }
    assert {name: type(getattr(_core, name)).__name__ for name in values} == values
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {name for name in vars(_core) if not name.startswith("_")} == {*values, *functions, "Enclave"}


def test_the_stub_lists_the_fields_of_the_descriptions(enclave: cml.Enclave, regression: cml.ConfidentialModel) -> None:
    tree = ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8"))
    declared = {
        node.name: {
            ast.unparse(field.target): ast.unparse(field.annotation)
            for field in node.body
            if isinstance(field, ast.AnnAssign)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Fields")
    }
    for name, fields in (
        ("IdentityFields", enclave._core.identity()),
        ("ModelFields", enclave._core.describe_model(regression._handle)),
    ):
        assert {field: type(value).__name__ for field, value in fields.items()} == declared[name]


def statuses() -> dict[str, int]:
    text = (ROOT / "common" / "status.h").read_text(encoding="utf-8")
    found = re.findall(r"^\s*(k\w+) = (\d+),", text, re.MULTILINE)
    assert len(found) > 30
    assert len({name for name, _ in found}) == len(found)
    return {name: int(number) for name, number in found}


def test_status_numbers_are_unique_and_in_the_block_of_their_module() -> None:
    text = (ROOT / "common" / "status.h").read_text(encoding="utf-8")
    assert len(set(statuses().values())) == len(statuses())
    block = 0
    for line in text.splitlines():
        if heading := re.search(r"// The .*\((\d)xx\)|// Prediction \((\d)xx\)|\((\d)xx\)", line):
            block = int(next(group for group in heading.groups() if group))
        elif entry := re.match(r"\s*k\w+ = (\d+),", line):
            assert int(entry[1]) // 100 == block, line


def test_every_status_has_a_meaning_with_an_exception_of_the_package() -> None:
    text = (ROOT / "host" / "status_table.cpp").read_text(encoding="utf-8")
    cases = re.findall(r'case Status::(k\w+):\s*return \{\s*"(\w+)"', text)
    assert {name for name, _ in cases} == set(statuses())
    for _, exception in cases:
        assert issubclass(getattr(cml, exception), cml.ConfidentialMLError)


def test_statuses_named_in_the_format_exist() -> None:
    names = {re.sub(r"(?<!^)(?=[A-Z])", "_", name[1:]).upper() for name in statuses()}
    named = set(re.findall(r"\b(?:NOT_A_SEALED_MODEL|SEALED_[A-Z_]+)\b", FORMATS))
    assert len(named) >= 6
    assert named <= names


def limits() -> dict[str, int]:
    text = (ROOT / "common" / "limits.h").read_text(encoding="utf-8")
    result: dict[str, int] = {}
    for name, expression in re.findall(r"inline constexpr \w+ (k\w+) =\s*([^;]+);", text):
        plain = re.sub(r"(?:uint64_t|size_t)\{(\d+)\}|(\d+)u\b", r"\1\2", expression)
        plain = re.sub(r"k\w+", lambda match: str(result[match[0]]), plain)
        assert re.fullmatch(r"[\d\s+*<()-]+", plain), expression
        result[name] = eval(plain)
    return result


def test_limits_agree_between_the_enclave_python_and_the_format() -> None:
    enclave = limits()
    python = {
        "kMaxFlatModelSize": flat_model.MAX_SIZE,
        "kMaxFeatures": flat_model.MAX_FEATURES,
        "kMaxGroups": flat_model.MAX_GROUPS,
        "kMaxRounds": flat_model.MAX_ROUNDS,
        "kMaxTrees": flat_model.MAX_TREES,
        "kMaxNodes": flat_model.MAX_NODES,
        "kMaxDepth": flat_model.MAX_DEPTH,
        "kMaxCategoryWords": (flat_model.MAX_CATEGORY + 1) // 32,
        "kMaxSealedHeaderSize": sealed_file._MAX_HEADER_SIZE,
        "kMaxSealedModelSize": sealed_file._MAX_SEALED_SIZE,
    }
    assert {name: enclave[name] for name in python} == python
    documented = {
        "kMaxFeatures": int(_stated(r"n_features \| 1 to 2\^(\d+)")),
        "kMaxGroups": int(_stated(r"n_groups \| 1 to 2\^(\d+)")),
        "kMaxRounds": int(_stated(r"n_rounds \| 0 to 2\^(\d+)")),
        "kMaxTrees": int(_stated(r"n_trees \| 0 to 2\^(\d+)")),
        "kMaxNodes": int(_stated(r"n_nodes \| n_trees to 2\^(\d+)")),
        "kMaxCategoryWords": int(_stated(r"category set, 1 to 2\^(\d+)")),
    }
    for name, power in documented.items():
        assert enclave[name] == 1 << power, name
    assert enclave["kMaxFlatModelSize"] == int(_stated(r"at most (\d+) MiB")) << 20
    assert enclave["kMaxPlanSize"] == int(_stated(r"take more than\s+(\d+) MiB")) << 20
    assert enclave["kMaxColumnBytes"] == int(_stated(r"or (\d+) MiB for what it makes of 32 rows")) << 20
    assert enclave["kMaxQuantiles"] == int(_stated(r"at most (\d,\d+) for reg:quantileerror").replace(",", ""))
    assert enclave["kMaxDepth"] == int(_stated(r"is at most (\d+)\."))
    assert enclave["kMaxSealedHeaderSize"] == int(_stated(r"before the ciphertext, at most (\d+)"))
    assert enclave["kMaxModelIdSize"] == int(_stated(r"model_id_size, 1 to (\d+)"))
    assert enclave["kMaxKeyInfoSize"] == int(_stated(r"key_info_size, 1 to (\d+)"))


def _stated(pattern: str) -> str:
    found = re.search(pattern, FORMATS)
    assert found is not None, f"docs/formats.md does not say: {pattern}"
    return found[1]


def test_objective_codes_agree_between_the_format_the_enclave_and_python() -> None:
    table = FORMATS.split("### 1.4")[1].split("###")[0]
    documented = {name: int(code) for code, name in re.findall(r"(\d+) \| (\w+:\w+)", table)}
    assert documented == {name: code for name, code in flat_model.OBJECTIVES.items() if name != "reg:linear"}
    assert documented == {name: flat_model.OBJECTIVES[name] for name in flat_model.OBJECTIVE_NAMES.values()}
    assert sorted(documented, key=documented.__getitem__) == flat_reader.OBJECTIVES
    text = (ROOT / "enclave" / "objective.h").read_text(encoding="utf-8")
    codes = {name: int(code) for name, code in re.findall(r"^\s*k(\w+) = (\d+),", text, re.MULTILINE)}
    assert sorted(codes.values()) == sorted(documented.values())
    for name, code in codes.items():
        # kRankNdcg: rank:ndcg; kSquaredError: reg:squarederror; kLogitRaw: binary:logitraw.
        documented_name = next(key for key, value in documented.items() if value == code)
        letters = documented_name.split(":")[1]
        assert letters.startswith(name.lower().removeprefix(documented_name.split(":")[0])) or letters in name.lower()


def test_boosters_policies_and_platforms_agree() -> None:
    text = (ROOT / "enclave" / "model.h").read_text(encoding="utf-8")
    boosters = {name.lower(): int(code) for name, code in re.findall(r"k(Gbtree|Dart|Gblinear) = (\d)", text)}
    assert boosters == {name: code for code, name in flat_model.BOOSTER_NAMES.items()}
    text = (ROOT / "enclave" / "platform.h").read_text(encoding="utf-8")
    policies = {name.lower(): int(code) for name, code in re.findall(r"k(Mrenclave|Mrsigner) = (\d)", text)}
    assert policies == sealed_file.POLICIES
    platforms = {
        re.sub(r"(?<=e)(?=S)", "-", name).lower(): int(code)
        for name, code in re.findall(r"k(Simulation|OpenEnclaveSimulation|OpenEnclave) = (\d)", text)
    }
    assert platforms == {name: code for code, name in sealed_file.PLATFORMS.items()}
    for name, code in [*sealed_file.POLICIES.items(), *platforms.items()]:
        assert re.search(rf"\b{code} {name}\b", FORMATS, re.IGNORECASE), name


def test_the_header_ends_where_the_format_says() -> None:
    assert sealed_file._PRELUDE.size == 48
    assert sealed_file._PRELUDE.size + sealed_file._FIELDS.size == int(_stated(r"\| (\d+) \| bytes \| model id"))
    assert int(_stated(r"### 1.1 Header, (\d+) bytes")) == flat_model.HEADER_SIZE


# ---- words and documentation ----------------------------------------------------------------------------------------

# In pieces, so that this file does not break its own rule.
FORBIDDEN_MODULES = {"ut" + "ils", "ut" + "il", "hel" + "pers", "hel" + "per", "mana" + "ger", "mi" + "sc"}
FORBIDDEN_WORDS = ["mo" + "ck"]


def test_no_file_is_named_after_nothing() -> None:
    bad = [path for path in tracked_files() if FORBIDDEN_MODULES & set(re.split(r"[._-]", path.name.lower()))]
    assert bad == []


def test_no_file_says_a_forbidden_word() -> None:
    bad = []
    for path in tracked_files():
        if "fixtures" in path.parts or path.suffix in {".ubj", ".npz", ".npy", ".png"}:
            continue
        text = path.read_bytes().decode("utf-8", "replace").lower()
        bad += [(str(path.relative_to(ROOT)), word) for word in FORBIDDEN_WORDS if re.search(rf"\b{word}", text)]
    assert bad == []


def public_functions() -> Iterator[tuple[str, Any]]:
    for name in cml.__all__:
        thing = getattr(cml, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing) and not issubclass(thing, Exception):
            for member_name, member in vars(thing).items():
                function = getattr(member, "__func__", getattr(member, "fget", member))
                if inspect.isfunction(function) and not member_name.startswith("_"):
                    yield f"{name}.{member_name}", function


CANNOT_FAIL = {"close", "forget_evidence"}


@pytest.mark.parametrize(("name", "function"), list(public_functions()), ids=lambda value: str(value)[:40])
def test_public_functions_say_what_they_raise(name: str, function: Any) -> None:
    documentation = inspect.getdoc(function) or ""
    assert documentation, name
    owner, _, member = name.partition(".")
    is_property = bool(member) and isinstance(inspect.getattr_static(getattr(cml, owner), member), property)
    if not is_property and (member or owner) not in CANNOT_FAIL:
        assert re.search(r"^Raises\n-+$", documentation, re.MULTILINE), name


def test_everything_public_is_listed_sorted_and_documented() -> None:
    assert cml.__all__ == sorted(cml.__all__)
    for name in cml.__all__:
        # A name for other types has its docstring in the source alone.
        assert inspect.getdoc(getattr(cml, name)) or get_origin(getattr(cml, name)) is Literal, name
    exceptions = [value for value in vars(cml).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert {value.__name__ for value in exceptions} <= set(cml.__all__)


def test_the_package_is_typed() -> None:
    assert (Path(cml.__file__).parent / "py.typed").exists()
