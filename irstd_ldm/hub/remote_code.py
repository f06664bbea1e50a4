"""The code that a checkpoint carries when it leaves, by which diffusers loads it where this package is not installed.

`DiffusionPipeline.from_pretrained(x, trust_remote_code=True)` imports `pipeline.py` at the root and one file in each
component's folder. Each of them is written here as one module: the class that it is for, and all of the package that
this class needs, found by following names and imports from definition to definition.
"""

import ast
import json
import sys
from collections import defaultdict
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

from .format import INDEX, class_name, component_module, read_json

PIPELINE_STEM = "pipeline"  # diffusers' CUSTOM_PIPELINE_FILE_NAME
_PACKAGE = __name__.partition(".")[0]
_LINE_LENGTH = 119


class _Import(NamedTuple):
    """An import: `from module import name as bound`, or `import name as bound` where the module is empty."""

    module: str
    name: str
    bound: str

    @property
    def part(self) -> str:
        return self.name if self.bound in (self.name, self.name.partition(".")[0]) else f"{self.name} as {self.bound}"


class _Definition(NamedTuple):
    """A statement at the top of a module, with its comments above, its names, and the line of an inner import."""

    text: str
    names: frozenset[str]
    inner_import: int | None


# Remote code has this base class instead of the package's own: a pipeline that diffusers alone has loaded is not saved
# in this package's format.
_REPLACED = {"IRSTDPipelineBase": _Import("diffusers", "DiffusionPipeline", "IRSTDPipelineBase")}


def remote_code(folder: Path) -> dict[Path, bytes]:
    """The code for the checkpoint in `folder`, and the index that names it: path in the checkpoint -> content.

    A folder without an index, or with classes of others alone, needs none.

    Raises:
        ValueError: A class of this package cannot be written as one module.
    """
    if not (folder / INDEX).exists():
        return {}
    index = read_json(folder / INDEX)
    files: dict[Path, bytes] = {}
    for name, entry in index.items():
        module = component_module(str(entry[0])) if isinstance(entry, list) and len(entry) == 2 else None
        if module is not None:
            stem = f"irstd_{module.rpartition('.')[2]}"
            files[Path(name, f"{stem}.py")] = one_module(module, entry[1]).encode()
            index[name] = [stem, entry[1]]
    name = class_name(index)
    module = _pipeline_modules().get(name)
    if module is not None:
        files[Path(f"{PIPELINE_STEM}.py")] = one_module(module, name).encode()
        index["_class_name"] = [PIPELINE_STEM, name]
    if files:
        files[Path(INDEX)] = (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()
    return files


def one_module(module: str, class_name: str) -> str:
    """Source of a module that holds one class and all of the package that it needs, each definition before its use.

    Raises:
        ValueError: The package has no such class; two of the needed names mean different things; or an import of the
            package is not of the form `from .x import A` at the top of a file, `x` being a module.
    """
    texts: dict[str, None] = {}  # a set that keeps its order
    imports: set[_Import] = set()
    origins: dict[str, object] = {}  # name -> the import or definition that binds it

    def need(module: str, name: str) -> None:
        bound = _REPLACED.get(name) or _bindings(module).get(name)
        while isinstance(bound, _Import) and bound.module.partition(".")[0] == _PACKAGE:
            module, bound = bound.module, _bindings(bound.module).get(bound.name)
        if bound is None:
            raise ValueError(f"`{module}` defines no `{name}`")
        if name in origins:
            if origins[name] != bound:
                raise ValueError(f"`{name}` means two things in the code of {class_name}, in {module} another one")
            return
        origins[name] = bound
        if isinstance(bound, _Import):
            imports.add(bound)
            return
        if bound.inner_import is not None:
            raise ValueError(f"`{module}`, line {bound.inner_import}: an import of the package must stand at the top")
        for other in sorted(bound.names & _bindings(module).keys()):
            need(module, other)
        texts[bound.text] = None

    need(module, class_name)
    docstring = f'"""{class_name} for `trust_remote_code=True`. Generated from irstd-ldm, not for editing."""'
    return "\n\n".join([docstring, *_import_lines(imports), *texts]) + "\n"


@cache
def _bindings(module: str) -> dict[str, _Import | _Definition]:
    """The names that the top of a module of this package binds."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or spec.submodule_search_locations is not None:
        raise ValueError(f"`{module}` must be a module with a file, to be written into a checkpoint")
    text = Path(spec.origin).read_text(encoding="utf-8")
    lines = text.splitlines()
    bindings: dict[str, _Import | _Definition] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            imported = [_Import("", one.name, one.asname or one.name.partition(".")[0]) for one in node.names]
            bindings |= {one.bound: one for one in imported}
        elif isinstance(node, ast.ImportFrom):
            target = resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            imported = [_Import(target, one.name, one.asname or one.name) for one in node.names]
            bindings |= {one.bound: one for one in imported}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign):
            definition = _definition(node, lines)
            for bound in _bound_names(node):
                bindings[bound] = definition
    return bindings


def _definition(node: ast.stmt, lines: list[str]) -> _Definition:
    first = min(one.lineno for one in [node, *getattr(node, "decorator_list", [])])
    while lines[first - 2].startswith("#"):
        first -= 1
    shown = dict(enumerate(lines, start=1))
    for one in ast.walk(node):
        if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name != "__call__" and ast.get_docstring(one):
            start, end = one.body[0].lineno, one.body[0].end_lineno or 0
            if end > start:  # a docstring other than the call's is cut to its summary
                shown[start] += '"""'
                shown = {number: line for number, line in shown.items() if not start < number <= end}
    text = [line for number, line in shown.items() if first <= number <= (node.end_lineno or first)]
    names = frozenset(one.id for one in ast.walk(node) if isinstance(one, ast.Name))
    inner = (one.lineno for one in ast.walk(node) if isinstance(one, ast.ImportFrom) and one.level)
    return _Definition("\n".join(text), names, next(inner, None))


def _bound_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
    return [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]


def _import_lines(imports: set[_Import]) -> list[str]:
    """Import statements, those of one module merged: the standard library's, then the others."""
    merged: dict[str, list[str]] = defaultdict(list)
    for one in sorted(imports):
        merged[one.module].append(one.part)
    statements = [("import " + part, part) for part in merged.pop("", [])]
    for module, parts in merged.items():
        line = f"from {module} import {', '.join(parts)}"
        if len(line) > _LINE_LENGTH:
            line = f"from {module} import (\n    " + ",\n    ".join(parts) + ",\n)"
        statements.append((line, module))
    standard = [line for line, module in statements if module.partition(".")[0] in sys.stdlib_module_names]
    return ["\n".join(standard), "\n".join(line for line, _ in statements if line not in standard)]


@cache
def _pipeline_modules() -> dict[str, str]:
    """The pipelines of this package: name of a class -> module that defines it."""
    spec = find_spec(f"{_PACKAGE}.pipelines")
    modules: dict[str, str] = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).glob("pipeline_*.py")):  # type: ignore
        module = f"{_PACKAGE}.pipelines.{path.stem}"
        modules |= {name: module for name, bound in _bindings(module).items() if isinstance(bound, _Definition)}
    return modules
