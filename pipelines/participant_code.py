"""A participant's own code: read, embedded in the record, and imported from there alone.

A file `mine.py` brings along what it imports from beside it: files and packages (folders of files),
and what these import. All of it is text in the record, so changed helper code is another dataset,
and a worker needs nothing but the plan. An operator `package.module:Class` is imported as Python
does; its package, and local packages that the code imports, are in the record too. Installed
packages that are only imported are not.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.metadata
import importlib.util
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pipelines import installed
from pipelines.errors import PipelineError
from pipelines.opened_files import code_folders, opened_files
from pipelines.operators import PARTICIPANT
from pipelines.read_variables import read_variables
from pipelines.records import Module, sha256_bytes


def module_of(path: Path) -> Module:
    """A participant's Python file as a record embeds it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(f"there is no file {path}, which the pipeline names") from None
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} is not UTF-8 text ({error})") from None
    return Module(name=path.name, sha256=sha256_bytes(text.encode()), text=text)


MAX_PACKAGE_BYTES = 1 << 20  # of Python text that a record embeds; of a larger one, the hashes


def package_of(name: str) -> Module | None:
    """The package of an operator `package.module:Class`, as a record embeds it.

    All Python files of the top package, with its version: helper code that changes makes another
    dataset. None for the platform's own, which the record names by revision and version.
    """
    top = name.partition(".")[0]
    if top == "__main__" or top in installed.own_packages():
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None  # whoever builds the operator says that it is not installed
    if spec is None:
        return None
    if spec.submodule_search_locations:
        roots = [Path(location) for location in spec.submodule_search_locations]
        files = {f"{top}/{p.relative_to(root)}": p for root in roots for p in root.rglob("*.py")}
    else:
        files = {f"{top}.py": Path(spec.origin or "")}
    texts = {name: path.read_text(errors="replace") for name, path in sorted(files.items())}
    try:
        version = importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        version = "not installed as a distribution"
    whole = sum(map(len, texts.values())) <= MAX_PACKAGE_BYTES
    parts = [f"# package {top}, version {version}"]
    for file, text in texts.items():
        parts.append(f"# {file}: sha256 {sha256_bytes(text.encode())}")
        parts += [text] if whole else []
    described = "\n".join(parts)
    return Module(name=name, sha256=sha256_bytes(described.encode()), text=described)


def local_packages(modules: Mapping[str, Module]) -> dict[str, Module]:
    """The packages that embedded code imports and that are not installed, but are on the path.

    By name, with those that they import in turn; without what `modules` holds.
    """
    there = {part for file in modules for part in Path(file.partition(".")[0]).parts}
    local: dict[str, Module] = {}
    waiting = list(modules.values())
    while waiting:
        tops = {name.partition(".")[0] for name in _imported(waiting.pop())}
        for name in sorted(tops - set(local) - there):
            if _is_local(name) and (package := package_of(name)) is not None:
                local[name] = package
                waiting.append(package)
    return local


def package_folders(name: str) -> tuple[Path, ...]:
    """Where the top package of `package.module` is; nothing for one that is not there."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return ()
    locations = (spec.submodule_search_locations or ()) if spec is not None else ()
    return tuple(Path(location).absolute() for location in locations)


def _is_local(name: str) -> bool:
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    origin = None if spec is None else spec.origin
    return bool(origin and origin.endswith(".py") and not origin.startswith(code_folders()))


# ---- files beside a participant's file


def helpers_of(path: Path) -> dict[str, Module]:
    """The files and packages beside a participant's file that it imports, and what they import.

    By path from the file's folder. Of a package all Python files come, since parts of it may be
    imported by names that are made up while it runs.
    """
    helpers: dict[str, Module] = {}
    waiting = [module_of(path)]
    while waiting:
        for name in {name.partition(".")[0] for name in _imported(waiting.pop())}:
            file, folder = path.with_name(f"{name}.py"), path.with_name(name)
            if not (folder / "__init__.py").is_file() and file.is_file():
                files = [file] if file != path else []
            else:  # a package comes before a file of its name, as Python has it
                files = sorted(folder.rglob("*.py")) if _is_package(folder) else []
            for part in files:
                key = part.relative_to(path.parent).as_posix()
                if key not in helpers:
                    helpers[key] = module_of(part).model_copy(update={"name": key})
                    waiting.append(helpers[key])
    return helpers


def _is_package(folder: Path) -> bool:
    """Whether Python would import a folder beside a script: with code, whatever it is called."""
    return folder.is_dir() and any(folder.glob("*.py"))


def beside_of(where: str, modules: Mapping[str, Module]) -> dict[str, Module]:
    """The modules that are beside the file `where`, by path from its folder."""
    folder = Path(where).parent if where in modules else Path()
    beside = {}
    for file, module in modules.items():
        if file.endswith(".py") and Path(file).is_relative_to(folder):
            beside[Path(file).relative_to(folder).as_posix()] = module
    return beside


def _imported(module: Module) -> set[str]:
    """The full names of the modules that a file imports, at any depth of its code."""
    try:
        tree = ast.parse(module.text)
    except (SyntaxError, ValueError):
        return set()  # whoever loads it says where
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


# ---- importing what travels

OPENED = "__opened_files__"
"""In a participant's module: the files that its code opened when it was imported."""
VARIABLES = "__read_variables__"
"""In a participant's module: the environment variables that its code read when it was imported."""


def load_module(module: Module, beside: Mapping[str, Module] | None = None) -> types.ModuleType:
    """The Python module that a participant's embedded text defines; the same text, once.

    What it imports is looked for among the files `beside` it first, as Python does for a script.
    """
    others = {name: helper for name, helper in (beside or {}).items() if helper != module}
    return _loaded(module, name=Path(module.name).stem, package="", beside=others)


def import_package(name: str) -> types.ModuleType:
    """The module `package.module` of an operator, as Python imports it."""
    with opened_files() as opened, read_variables(inside={name.partition(".")[0]}) as variables:
        module = importlib.import_module(name)
    vars(module).setdefault(OPENED, frozenset(opened))
    vars(module).setdefault(VARIABLES, frozenset(variables))
    return module


def _loaded(
    module: Module, *, name: str, package: str, beside: Mapping[str, Module]
) -> types.ModuleType:
    """A module under a name of all the code that it may import; `name` is what imports it."""
    code = "".join([module.sha256, *sorted(helper.sha256 for helper in beside.values())])
    digest = sha256_bytes(code.encode()) if beside else module.sha256
    full = f"{PARTICIPANT}{digest[:16]}_{name.replace('.', '_')}"
    if full in sys.modules:
        return sys.modules[full]
    loaded = types.ModuleType(full)
    loaded.__file__ = module.name
    loaded.__package__ = package
    linecache.cache[module.name] = (
        len(module.text),
        None,
        module.text.splitlines(keepends=True),
        module.name,
    )
    if beside:
        loaded.__dict__["__builtins__"] = {
            **vars(builtins),
            "__import__": partial(_import, beside),
        }
    sys.modules[full] = loaded
    try:
        with opened_files() as opened, read_variables() as variables:
            exec(compile(module.text, module.name, "exec"), loaded.__dict__)
        loaded.__dict__[OPENED] = frozenset(opened)
        loaded.__dict__[VARIABLES] = frozenset(variables)
    except (Exception, SystemExit) as error:  # a script without `if __name__ == "__main__":`
        del sys.modules[full]
        if isinstance(error, PipelineError):
            raise
        raise PipelineError(
            f"{module.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return loaded


def _import(
    beside: Mapping[str, Module],
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> types.ModuleType:
    """`import` inside a participant's code: what travels with it, or any other module."""
    if level:
        parts = str((globals or {}).get("__package__") or "").split(".")
        base = parts[: len(parts) - level + 1]
        name = ".".join([*filter(None, base), *([name] if name else [])])
    top, *below = name.split(".")
    if _source(top, beside) is None:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = first = _part(top, beside)
    for depth in range(len(below)):
        module = _member(module, below[depth], ".".join([top, *below[:depth]]), beside)
    if not fromlist:
        return first
    names = getattr(module, "__all__", ()) if "*" in fromlist else fromlist
    for member in names:
        if not hasattr(module, member) and _source(f"{name}.{member}", beside) is not None:
            _member(module, member, name, beside)
    return module


def _member(
    module: types.ModuleType, member: str, package: str, beside: Mapping[str, Module]
) -> types.ModuleType:
    """A module inside a package, which has it as an attribute from then on."""
    full = f"{package}.{member}"
    if _source(full, beside) is None:
        raise ModuleNotFoundError(f"No module named {full!r}", name=full)
    part = _part(full, beside)
    setattr(module, member, part)
    return part


def _part(name: str, beside: Mapping[str, Module]) -> types.ModuleType:
    source = _source(name, beside)
    assert source is not None, name
    file = Path(source.name).name
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    return _loaded(source, name=name, package=package, beside=beside)


def _source(name: str, beside: Mapping[str, Module]) -> Module | None:
    """The text of a module among those that travel; an empty one of a folder without its own."""
    path = name.replace(".", "/")
    for file in (f"{path}/__init__.py", f"{path}.py"):
        if file in beside:
            return beside[file]
    if any(file.startswith(f"{path}/") for file in beside):
        text = f"# {path}: a folder of modules"
        return Module(name=f"{path}/__init__.py", sha256=sha256_bytes(text.encode()), text=text)
    return None
