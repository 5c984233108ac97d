"""Links the console's ES modules into one script: each keeps a scope of its own, nothing is rewritten inside it."""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["linked"]

# The only forms the console's sources use; everything else that begins with import or export is refused.
_IMPORT = re.compile(r'^import \{\s*([\w\s,$]+?)\s*\} from "\./([a-z0-9_/]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) ([\w$]+))", re.MULTILINE)
_UNKNOWN = re.compile(r"^(?:import|export)\b.*|\bimport\.meta\b", re.MULTILINE)


def linked(entry: str, read: Callable[[str], str]) -> str:
    """One script that runs a module and all it imports, each once, what is imported first.

    Parameters
    ----------
    entry
        Name of the module to run.
    read
        Gives the source of a module of that name.

    Returns
    -------
    str
        The body of a ``<script type="module">``.

    Raises
    ------
    ValueError
        If modules import each other in a circle, import a name that is not exported, or use a form of import or export
        that is not read here.
    """
    exports: dict[str, list[str]] = {}
    scopes: list[str] = []

    def visit(name: str, importers: tuple[str, ...]) -> None:
        if name in importers:
            raise ValueError(f"modules of the console import each other: {' -> '.join((*importers, name))}")
        if name in exports:
            return
        source = read(name)
        imports = [(re.findall(r"[\w$]+", names), module) for names, module in _IMPORT.findall(source)]
        for names, module in imports:
            visit(module, (*importers, name))
            missing = sorted(set(names) - set(exports[module]))
            if missing:
                raise ValueError(f"{name} imports {missing[0]}, which {module} does not export")
        exports[name] = _EXPORT.findall(source)
        scopes.append(_scope(name, imports, _EXPORT.sub("", _IMPORT.sub("", source)), exports[name]))

    visit(entry, ())
    return "".join(scopes)


def _scope(name: str, imports: list[tuple[list[str], str]], body: str, exports: list[str]) -> str:
    unknown = _UNKNOWN.search(body)
    if unknown:
        raise ValueError(f"{name}: this form is not linked: {unknown[0]!a}")
    header = "".join(f"const {{ {', '.join(names)} }} = {_variable(module)};\n" for names, module in imports)
    footer = f"return {{ {', '.join(exports)} }};\n" if exports else ""
    return f"// ---- {name}\nconst {_variable(name)} = (() => {{\n{header}{body}{footer}}})();\n"


def _variable(module: str) -> str:
    return "module_" + re.sub(r"\W", "_", module.removesuffix(".js"))
