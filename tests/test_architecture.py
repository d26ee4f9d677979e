"""The rule of imports that docs/architecture.md draws: who may know whom, and what the base install never loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import the rooms on lower floors, never its own floor's neighbours or one above.
FLOORS = (
    {"errors"},
    {"columns"},
    {"records", "reporter", "store", "spec", "settings", "secret", "privacy"},
    {"exchange", "shards", "sources", "ledger", "utility", "cinn", "zones"},
    {"publish", "planned_model"},
    {"plan"},
    {"steps"},
    {"release"},
    {"show"},
    {"cli"},
)
# What only a step that runs may load.
HEAVY = {"torch", "prefect", "great_expectations", "pandas", "matplotlib", "safetensors", "s3fs", "sklearn"}


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "migrations" not in path.parts)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every imported module with whether the import stands at module level outside `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text())
    found = []

    def walk(node: ast.AST, eager: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append((child.module or "", eager))
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            walk(child, eager and not lazy)

    walk(tree, True)
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT / "cadp").parts[0].removesuffix(".py")


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name, _ in imports(path))
    return {parts[1] for parts in names if parts[0] == "cadp" and len(parts) > 1}


def test_every_room_has_a_floor() -> None:
    known = set().union(*FLOORS) | {"__init__", "__main__"}
    assert {room(path) for path in modules("cadp")} <= known


@pytest.mark.parametrize("path", modules("cadp"), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    own = room(path)
    upward = {other for other in rooms_imported(path) - {own} if own in floor and floor.get(other, 99) >= floor[own]}
    allowed = {("cinn", "store"), ("cinn", "privacy")}
    assert not {other for other in upward if (own, other) not in allowed}


def test_the_grain_of_each_room() -> None:
    for path in modules("cadp"):
        others = rooms_imported(path)
        if room(path) == "privacy":
            assert others <= {"privacy", "errors"}, path
        if room(path) in {"cinn", "utility", "publish"}:
            assert "ledger" not in others, path
        if room(path) == "ledger":
            assert others <= {"ledger", "errors", "privacy", "store"}, path


def test_no_prefect_in_cadp() -> None:
    offenders = [path for path in modules("cadp") for name, _ in imports(path) if name.split(".")[0] == "prefect"]
    assert offenders == []


def test_cadp_never_imports_flows() -> None:
    offenders = [path for path in modules("cadp") for name, _ in imports(path) if name.split(".")[0] == "flows"]
    assert offenders == []


def test_base_install_loads_nothing_heavy() -> None:
    code = f"""
import sys
import cadp.cli, cadp.plan, cadp.show, cadp.release, cadp.ledger, cadp.publish.verify, cadp.sources, cadp.store
heavy = {sorted(HEAVY)!r}
print(",".join(name for name in heavy if name in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == ""


def test_base_install_works_without_the_extras(tmp_path: Path) -> None:
    """`cadp plan` and `cadp verify --help` in an interpreter where every optional package fails to import."""
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(HEAVY | {'fastapi'})!r}:\n"
        "            raise ImportError(name + ' is not in the base install')\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    code = "import sys; sys.argv = ['cadp', 'verify', '--help']; from cadp.cli import main; main()"
    environ = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "CADP_HOME": str(tmp_path / "home")}
    blocked = [sys.executable, "-c", "import torch"]
    assert subprocess.run(blocked, env=environ, capture_output=True, timeout=60, check=False).returncode != 0
    result = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


def test_no_circles_between_modules() -> None:
    graph: dict[str, set[str]] = {}
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules("cadp")
    }
    for path in modules("cadp"):
        own = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[own] = {name for name, eager in imports(path) if eager and name in names and name != own}
    state: dict[str, int] = {}

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert state.get(node) != 1, " → ".join((*trail, node))
        if state.get(node) == 2:
            return
        state[node] = 1
        for other in graph[node]:
            # A package's __init__ gathers its own modules; that is no circle.
            if not node.startswith(other + "."):
                visit(other, (*trail, node))
        state[node] = 2

    for node in graph:
        visit(node, ())
