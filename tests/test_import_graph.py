"""Imports flow one way: the package's files are read, none is executed."""

import ast
from importlib.util import resolve_name
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "irstd_ldm"
FLOOR = {"bundled", "extras", "files", "targets", "tiling", "tracking", "data", "results"}
BELOW = {*FLOOR, "hub", "models", "evaluation", "pipelines", "runtime"}
# Room, a folder or a file of the package's root -> the other rooms that it may import.
MAY_IMPORT = {
    "files": set(),
    "bundled": set(),
    "extras": set(),
    "models": set(),
    "targets": {"files"},
    "hub": {"files"},
    "tiling": {"files", "targets"},
    "tracking": {"files", "targets"},
    "data": {"extras", "files", "targets"},
    "results": {"targets", "data"},
    "evaluation": {"extras", "files", "targets", "data"},
    "pipelines": {*FLOOR, "hub", "models"},
    "runtime": {*FLOOR, "models"},
    "stream": {*FLOOR, "runtime"},
    "archive": {*FLOOR, "runtime", "stream"},
    "training": BELOW,
    "app": BELOW,
    "__main__": {"cli"},
    "cli": {*BELOW, "stream", "archive", "training", "app"},
}
# An exporter is given a pipeline.
EXPORT = {("runtime.export", "pipelines")}


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; the links to pipelines and training are followed."""
    files = {path for folder in (".", "pipelines", "training") for path in (PACKAGE / folder).rglob("*.py")}
    names = {path: path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for path in files}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in names.items()}


def imported(name: str, path: Path, known: set[str]) -> set[str]:
    """The modules of the package that one imports anywhere, but for those that type checkers alone see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in unseen:
            relative = "." * node.level + (node.module or "")
            target = resolve_name(relative, f"irstd_ldm.{package}".rstrip(".")) if node.level else relative
            if target.partition(".")[0] == "irstd_ldm":
                inside = target.partition(".")[2]
                submodules = {f"{inside}.{alias.name}".lstrip(".") for alias in node.names} & known
                found |= submodules or {inside}
    return found - {name, ""}


def graph() -> dict[str, set[str]]:
    files = modules()
    return {name: imported(name, path, set(files)) for name, path in files.items() if name}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_is_known():
    assert {room(name) for name in graph()} <= set(MAY_IMPORT)


def test_imports_flow_one_way():
    edges = {(name, room(other)) for name, others in graph().items() for other in others if room(other) != room(name)}
    broken = {(name, other) for name, other in edges if other not in MAY_IMPORT[room(name)] | {"lazy"}}
    assert broken == EXPORT


def test_no_module_imports_itself_by_way_of_others():
    reached = {name: set(others) for name, others in graph().items()}
    for middle in reached:
        for others in reached.values():
            if middle in others:
                others |= reached[middle]
    assert {name for name, others in reached.items() if name in others} == set()


def test_the_ground_floor_needs_no_torch():
    """By its files; tests/test_torch_free.py imports it."""
    for name in ("targets", "tiling", "tracking", "files", "hub.format", "hub.remote_code", "data.images"):
        for node in ast.walk(ast.parse(modules()[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                heavy = {one.partition(".")[0] for one in names} & {"diffusers", "transformers", "accelerate"}
                assert not heavy, name
