"""The layers of the package, read from its imports: they point down, and each framework has its one place."""

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "backends").rglob("*.py"), *(ROOT / "minigpt").rglob("*.py")])
FRAMEWORKS = {"mlx": "backends/mlx/", "torch": "backends/torch/"}  # named below these only
# The rooms of minigpt from the top floor to the bottom: an import, lazy ones too, points to a lower floor.
FLOORS = (
    "__main__", "cli", "serve watch handbook experiments", "library", "demo parity exchange feedback", "evaluate",
    "runs", "plan", "config", "stages", "train", "quantize generate", "model", "data", "machine", "text store pages",
    "sections", "events", "units", "errors",
)  # fmt: skip
FLOOR = {room: floor for floor, rooms in enumerate(reversed(FLOORS)) for room in rooms.split()}
# Only where something is exported, imported or scored, lazily.
EXCHANGE = {"sacrebleu", "openai", "transformers", "mlx_lm", "tokenizers", "gguf", "peft", "xllamacpp"}


def imports(source: str, package: str = "") -> list[tuple[str, bool]]:
    """(dotted name, whether importing the module imports it) for each import of a source text.

    `from a import b` counts as `a.b`. Imports inside functions are lazy; those inside classes, if and try are not,
    except under `if TYPE_CHECKING`.
    """
    found = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found.extend((f"{module}.{alias.name}", eager) for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            eager = False
        lazy = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not lazy)

    visit(ast.parse(source), True)
    return found


@functools.cache
def runtime_imports(path: Path) -> list[tuple[str, bool]]:
    """The imports that a program makes: not those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        for body in ("body", "orelse"):
            kept = getattr(node, body, None)
            if isinstance(kept, list):
                typing = [one for one in kept if isinstance(one, ast.If) and ast.unparse(one.test).endswith("CHECKING")]
                setattr(node, body, [one for one in kept if one not in typing] or [ast.Pass()] * bool(kept))
    return imports(ast.unparse(tree), ".".join(path.relative_to(ROOT).parent.parts))


@functools.cache
def imports_of(path: Path) -> list[tuple[str, bool]]:
    return imports(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """The part of minigpt that a file belongs to: config, train, …; "" for minigpt/__init__.py."""
    first = path.relative_to(ROOT / "minigpt").parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def test_the_reader_of_imports():
    source = """
import a.b, c
from d.e import f
from . import g
from ..h import i
if TYPE_CHECKING:
    import j
try:
    import k
except ImportError:
    pass
class C:
    import l
    def method(self):
        import m
"""
    found = imports(source, "top.sub")
    eager = ["a.b", "c", "d.e.f", "top.sub.g", "top.h.i", "k", "l"]
    assert [name for name, now in found if now] == eager
    assert [name for name, now in found if not now] == ["j", "m"]


def test_there_is_something_to_read():
    names = {name_of(path) for path in SOURCES}
    assert {"backends/base.py", "minigpt/model/gpt.py"} <= names
    assert all(any(name.startswith(place) for name in names) for place in FRAMEWORKS.values())


def test_frameworks_are_named_in_their_backend_only():
    for path in SOURCES:
        roots = {name.split(".")[0] for name, _ in imports_of(path)}
        found = [f for f, place in FRAMEWORKS.items() if f in roots and not name_of(path).startswith(place)]
        assert found == [], name_of(path)


def test_exchange_libraries_are_imported_lazily():
    for path in SOURCES:
        eager = {name.split(".")[0] for name, now in imports_of(path) if now}
        assert eager & EXCHANGE == set(), name_of(path)


def test_backends_know_nothing_of_minigpt():
    for path in (ROOT / "backends").rglob("*.py"):
        assert [name for name, _ in imports_of(path) if name.split(".")[0] == "minigpt"] == [], name_of(path)


def test_imports_point_down():
    for path in (ROOT / "minigpt").rglob("*.py"):
        room = part_of(path)
        targets = {name.split(".")[1] for name, _ in runtime_imports(path) if name.startswith("minigpt.")}
        for target in targets - {room, "__version__"}:
            assert not room or FLOOR[target] < FLOOR[room], f"{name_of(path)} imports minigpt.{target}"


def test_no_circles_also_inside_a_room():
    dotted = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
    modules = {name.removesuffix(".__init__"): path for path, name in dotted.items()}
    graph = {}
    for name, path in modules.items():
        found = {one for one, _ in runtime_imports(path)}
        found |= {one.rpartition(".")[0] for one in found}
        graph[name] = {one for one in found if one in modules and one != name and not name.startswith(f"{one}.")}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_few_modules_stand_outside_of_a_room():
    assert len(list((ROOT / "minigpt").glob("*.py"))) <= 10


def test_the_library_is_silent():
    """No print, no sys.exit, no sys.argv below the console."""
    for path in SOURCES:
        if "minigpt" in path.relative_to(ROOT).parts and part_of(path) in ("cli", "__main__"):
            continue
        calls = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, (ast.Name, ast.Attribute))}  # fmt: skip
        assert calls & {"print", "exit", "sys.exit", "sys.argv", "quit"} == set(), name_of(path)


@pytest.mark.parametrize("name", ["torch.py", "mlx.py", "utils.py", "helpers.py", "manager.py"])
def test_no_file_hides_a_framework_or_says_nothing(name):
    assert [p for p in SOURCES if p.name == name] == []


def test_no_two_test_files_share_a_name():
    """pytest could not collect them together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in names if names.count(name) > 1] == []
