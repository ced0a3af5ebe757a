"""Dependencies point one way, the core stays pure, heavy packages load only when used, files stay readable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("armwise", "bandit", "service", "benchmarks", "tests", "migrations")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CORE = [path for path in SOURCES if path.is_relative_to(ROOT / "bandit")]
SERVICE = [path for path in SOURCES if path.is_relative_to(ROOT / "service")]
HEAVY = ("torch", "transformers", "litellm", "sklearn", "onnx", "onnxruntime", "openai", "opentelemetry")

# These run on a heavy package from the first line to the last, and are imported only where they are used.
NVIDIA = "service.classifiers.nvidia."
ON_HEAVY = {
    NVIDIA + name
    for name in (
        "artefact", "calibration", "graph", "onnx_runtime",
        "torch_runtime", "tuning.loss", "tuning.training", "tuning.tune", "tuning.writing",
    )
} | {"service.tracing.spans"}  # fmt: skip

# What would let a decision depend on anything but its arguments.
WORLD = {
    "asyncio", "datetime", "glob", "http", "io", "locale", "logging", "multiprocessing", "os", "pathlib", "platform",
    "random", "secrets", "select", "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile",
    "threading", "time", "urllib", "uuid", "warnings", "zoneinfo",
}  # fmt: skip
GLOBAL_RANDOM = {"random", "rand", "randn", "randint", "seed", "choice", "shuffle", "permutation", "beta", "normal"}


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path, *, only_at_start=False):
    """Full names of the modules that a file imports; with `only_at_start` those that importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        if not (only_at_start and (in_function or for_types)):
            waiting.extend(ast.iter_child_nodes(node))
    return found


def tops(path, **how):
    return {name.partition(".")[0] for name in imports(path, **how)}


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_the_standard_library_numpy_scipy_and_msgspec(path):
    allowed = set(sys.stdlib_module_names) | {"numpy", "scipy", "msgspec", "bandit"}
    assert tops(path) <= allowed


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_has_no_clock_no_environment_no_log_and_no_chance_of_its_own(path):
    assert not tops(path) & WORLD
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in {"np.random", "numpy.random", "random"}:
            assert node.attr not in GLOBAL_RANDOM, f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input", "exec", "eval"}, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", SERVICE, ids=name_of)
def test_the_service_does_not_know_its_tests_and_benchmarks(path):
    assert not tops(path) & {"tests", "benchmarks", "pytest", "hypothesis"}


def module_of(path):
    return name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@pytest.mark.parametrize("path", CORE + SERVICE, ids=name_of)
def test_heavy_packages_are_not_imported_at_the_top(path):
    if module_of(path) not in ON_HEAVY:
        assert not tops(path, only_at_start=True) & set(HEAVY)
        assert not imports(path, only_at_start=True) & ON_HEAVY


def test_only_what_runs_on_a_heavy_package_may_import_it_at_the_top():
    heavy = {module_of(path) for path in SERVICE if tops(path, only_at_start=True) & {*HEAVY}}
    users = {module_of(path) for path in SERVICE if imports(path, only_at_start=True) & ON_HEAVY}
    assert heavy | users == ON_HEAVY


def test_litellm_is_known_to_one_file():
    users = {name_of(path) for path in CORE + SERVICE if "litellm" in tops(path)}
    assert users <= {"service/providers/translated.py"}


def imported_by(statement):
    """Modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_service_starts_without_heavy_packages():
    loaded = imported_by("import service.app")
    assert "litestar" in loaded
    assert not loaded & set(HEAVY)


def test_the_core_loads_nothing_of_the_web_or_a_database():
    loaded = imported_by("import bandit.catalogue, bandit.selection")
    assert "scipy" in loaded
    assert not loaded & {*HEAVY, "litestar", "sqlalchemy", "aiohttp", "uvicorn", "service"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_can_be_read_in_one_go(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    most = 600 if path.is_relative_to(ROOT / "tests") else 400  # the cases of one contract belong together
    assert lines <= most, f"{lines} lines: probably two things"


def test_no_file_is_named_like_a_standard_module():
    names = {path.stem for path in CORE + SERVICE} - {"__init__", "__main__"}
    assert not names & set(sys.stdlib_module_names)


def test_file_names_of_tests_are_unique():
    names = [path.name for path in SOURCES if path.name.startswith("test_")]
    assert len(names) == len(set(names))
