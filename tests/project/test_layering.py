import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.files import ROOT

PACKAGES = ("schemas", "services", "trainers", "eval", "pipelines")
OURS = {*PACKAGES, "deploy", "docs", "tests"}
MAY_IMPORT = {
    "schemas": {"schemas"},
    "services": {"schemas", "services"},
    "trainers": {"schemas", "services", "trainers"},
    "eval": {"schemas", "services", "eval"},
    "pipelines": set(PACKAGES),
    "deploy": set(PACKAGES),
    "docs": {"schemas"},
    "tests": {*PACKAGES, "docs", "tests"},
}
HEAVY = {"vllm", "ray", "torch", "transformers", "trl", "lm_eval", "prometheus_client", "pyarrow"}


@functools.cache
def python_files():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})


def modules_named_in(source, path="x.py"):
    """Top-level names that a file imports anywhere: statements, `import_module("x")`, `__import__("x")`."""
    names = set()
    package = Path(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            if node.level and not node.module:
                names.update(".".join([*above, alias.name]) for alias in node.names)
            else:
                names.add(".".join([*above, node.module]))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return {name.split(".")[0] for name in names}


@functools.cache
def imports():
    return {name: modules_named_in((ROOT / name).read_text(encoding="utf-8"), name) for name in python_files()}


def files_that_import(module):
    return [name for name, found in imports().items() if module in found and not name.startswith("tests/")]


def test_the_scan_finds_every_kind_of_import():
    source = """
import a.b
def f():
    from c.d import e
    from . import g
    from .h import i
    import importlib
    importlib.import_module("j.k")
    __import__("l")
"""
    assert modules_named_in(source, "pkg/mod.py") == {"a", "c", "pkg", "importlib", "j", "l"}
    assert {name.split("/")[0] for name in python_files()} >= {"schemas", "services", "pipelines", "tests"}


def test_each_layer_imports_only_what_lies_below():
    wrong = {
        name: sorted(up)
        for name, found in imports().items()
        if name.split("/")[0] in MAY_IMPORT and (up := (found & OURS) - MAY_IMPORT[name.split("/")[0]])
    }
    assert wrong == {}


def node_of(module):
    """What a module is part of: a package or a loose module of pipelines, or one of the layers below as a whole."""
    layer, *rest = module.split(".")
    return ".".join([layer, *rest[:1]]) if layer == "pipelines" else layer


@functools.cache
def product_modules():
    """Module -> the modules that it imports anywhere, but for annotations."""
    files = [name for name in python_files() if name.split("/")[0] in PACKAGES]
    modules = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): name for name in files}
    graph = {}
    for module, name in modules.items():
        tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
        for node in [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node)]:
            node.body = []
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        named = {(node.module, alias.name) for node in froms for alias in node.names}
        graph[module] = {f"{m}.{n}" if f"{m}.{n}" in modules else m for m, n in named} & set(modules) - {module}
    return graph


def levels(graph):
    """Length of the longest way down from each node.

    Raises:
        graphlib.CycleError: there is none, since nodes import each other in a circle.
    """
    found = {}
    for node in graphlib.TopologicalSorter(graph).static_order():
        found[node] = 1 + max((found[below] for below in graph.get(node, ())), default=0)
    return found


def test_no_modules_import_each_other_in_a_circle():
    assert set(levels({"a": {"b"}, "b": {"c"}}).values()) == {1, 2, 3}
    with pytest.raises(graphlib.CycleError):
        levels({"a": {"b"}, "b": {"a"}})
    assert len(levels(product_modules())) > 150


def test_packages_lie_on_at_most_twelve_levels():
    graph = {}
    for module, imported in product_modules().items():
        node = node_of(module)
        graph.setdefault(node, set()).update({node_of(each) for each in imported} - {node})
    assert max(levels(graph).values()) <= 12


def test_no_module_has_the_name_of_a_folder_beside_it():
    wrong = [name for name in python_files() if (ROOT / name.removesuffix(".py")).is_dir()]
    assert wrong == []


def test_few_modules_lie_loose_in_pipelines():
    loose = [name for name in python_files() if re.fullmatch(r"pipelines/[^_/]\w*\.py", name)]
    assert len(loose) <= 8, loose


def test_every_python_file_belongs_to_a_layer():
    assert [name for name in python_files() if name.split("/")[0] not in MAY_IMPORT] == []


def test_schemas_needs_no_third_party_library_but_arrow_pydantic_and_yaml():
    allowed = {*sys.stdlib_module_names, "schemas", "pyarrow", "pydantic", "pydantic_core", "yaml"}
    wrong = {n: f - allowed for n, f in imports().items() if n.startswith("schemas/") and f - allowed}
    assert wrong == {}


# The baselines of benchmarks are what people use instead of us, so they go to vllm and trl themselves.
BASELINES = {
    f"pipelines/benchmarks/{name}.py" for name in ("throughput/raw_vllm", "throughput/ray_data_llm", "train/arm")
}


def test_one_file_alone_touches_vllm():
    assert set(files_that_import("vllm")) - BASELINES == {"services/engines/vllm_engine.py"}


def test_one_file_serves_metrics_and_one_reads_them():
    files = {f"services/observability/{name}.py" for name in ("metrics", "endpoint_reader")}
    assert set(files_that_import("prometheus_client")) == files


@pytest.mark.parametrize("module", ["trl", "lm_eval"])
def test_at_most_one_file_touches(module):
    assert len(set(files_that_import(module)) - BASELINES) <= 1


def test_the_distribution_holds_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(package.replace("/", ".") for package in packages())


def test_every_folder_of_python_files_is_a_package():
    folders = {Path(name).parent for name in python_files() if name.split("/")[0] in PACKAGES}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


def packages():
    """Folders of all product packages."""
    inits = (name for name in python_files() if name.endswith("/__init__.py") and name.split("/")[0] in PACKAGES)
    return [Path(name).parent.as_posix() for name in inits]


@pytest.mark.parametrize("package", packages())
def test_the_docstring_lists_the_files_of_its_package(package):
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    listed = re.findall(r"^ *([\w-]+(?:\.py|/)) {2,}\S", docstring, re.MULTILINE)
    below = [name.removeprefix(f"{package}/") for name in python_files() if name.startswith(f"{package}/")]
    # A folder stands for all its files.
    there = {name if "/" not in name else name.split("/")[0] + "/" for name in below} - {"__init__.py", "__main__.py"}
    assert len(listed) == len(set(listed))
    assert set(listed) == there


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff_has_nothing_to_say(arguments):
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_has_nothing_to_say():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def loaded_after(code):
    script = f"import json, sys\n{code}\nprint('MODULES', json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = json.loads(done.stdout.partition("MODULES ")[2])
    return done.stdout, {*names, *(name.split(".")[0] for name in names)}


def loaded_by(*commands):
    """What commands print, one after the other in a process, their exit codes, and the modules that they load."""
    code = f"""
import runpy
for command in {commands!r}:
    sys.argv = ["kindling", *command.split()]
    try:
        runpy.run_module("pipelines", run_name="__main__", alter_sys=False)
    except SystemExit as stopped:
        print("CODE", stopped.code or 0)
"""
    output, loaded = loaded_after(code)
    return output, [int(code) for code in re.findall(r"CODE (\d+)", output)], loaded


def test_help_loads_no_heavy_library():
    output, codes, loaded = loaded_by("--help")
    assert codes == [0]
    assert "augment" in output
    assert "typer" in loaded
    assert loaded & HEAVY == set()


def test_a_verb_that_only_reads_a_run_loads_neither_ray_nor_pandas():
    run = "tests/pipelines/old_runs/augment"
    output, codes, loaded = loaded_by(f"status {run}", f"verify {run}")
    assert codes == [0, 0]
    assert output.count("12 accepted\n") == 2
    # Each of them would be a tenth of a second, or much more, of a command that people run again and again.
    assert loaded & {"ray", "pandas", "polars", "torch", "prometheus_client", "rich"} == set()


@pytest.mark.slow
def test_a_report_loads_neither_ray_nor_torch():
    runs = " ".join(f"tests/pipelines/old_runs/{name}" for name in ("augment", "evaluate", "train"))
    _, codes, loaded = loaded_by(f"report {runs}")
    assert codes == [0]
    assert loaded & {"ray", "pandas", "torch", "transformers", "matplotlib"} == set()


def test_status_loads_no_schema_of_jobs():
    _, codes, loaded = loaded_by("status tests/pipelines/old_runs/augment")
    assert codes == [0]
    assert loaded & {"schemas.job", "yaml"} == set()


def test_doctor_and_the_version_load_no_heavy_library():
    _, codes, loaded = loaded_by("doctor", "--version")
    assert codes == [0, 0]
    assert loaded & HEAVY == set()


def test_a_wrong_job_file_is_reported_before_anything_slow_is_loaded(tmp_path):
    (tmp_path / "job.yaml").write_text("nmae: x\n")
    verbs = ["augment", "preview", "label", "compose", "train", "evaluate", "pool start"]
    _, codes, loaded = loaded_by(*(f"{verb} {tmp_path}/job.yaml" for verb in verbs))
    assert codes == [2] * len(verbs)
    assert loaded & {*HEAVY, "numpy", "rich"} == set()


def test_importing_every_package_alone_loads_no_heavy_library():
    _, loaded = loaded_after("import schemas, services, trainers, eval, pipelines")
    assert loaded & HEAVY == set()
