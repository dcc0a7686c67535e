"""Operators by name: the built-in ones, and those of a participant's file or installed module."""

from __future__ import annotations

import ast
import builtins
import difflib
import importlib
import importlib.metadata
import importlib.util
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from pipelines import installed
from pipelines.opened_files import opened_files
from pipelines.operators import PARTICIPANT, REGISTRY, Operator, PipelineError
from pipelines.records import JSON, Module, sha256_bytes

BUILTIN = (
    "pipelines.text.aggregates",
    "pipelines.text.score_columns",
    "pipelines.text.source_code",
    "pipelines.text.contamination",
    "pipelines.text.contamination_scores",
    "pipelines.text.attributes",
    "pipelines.text.counts",
    "pipelines.text.heuristics",
    "pipelines.text.language",
    "pipelines.text.latex",
    "pipelines.text.lines",
    "pipelines.text.model_scores",
    "pipelines.text.pages",
    "pipelines.text.perplexity",
    "pipelines.text.pii",
    "pipelines.text.prompt_score",
    "pipelines.text.published",
    "pipelines.text.quality",
    "pipelines.text.repetition",
    "pipelines.text.rewrites",
    "pipelines.text.stackexchange",
    "pipelines.text.substrings",
    "pipelines.text.tokens",
    "pipelines.text.urls",
    "pipelines.dedup.exact",
    "pipelines.dedup.image_hash",
    "pipelines.dedup.minhash",
    "pipelines.dedup.ngram_bloom",
    "pipelines.dedup.substring",
    "pipelines.selection",
    "pipelines.image_text.captions",
    "pipelines.image_text.clusters",
    "pipelines.image_text.corruption",
    "pipelines.image_text.feature_head",
    "pipelines.image_text.image_rules",
    "pipelines.image_text.scores",
)
"""Modules whose import registers the operators that come with the platform."""


def registry() -> dict[str, type[Operator]]:
    """Every operator that comes with the platform, by name."""
    for name in BUILTIN:
        importlib.import_module(name)
    return REGISTRY


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


def helpers_of(path: Path) -> dict[str, Module]:
    """The Python files beside a participant's file that it imports, and those that they import.

    By file name. They travel with the operator: changed helper code is another dataset.
    """
    helpers: dict[str, Module] = {}
    waiting = [path]
    while waiting:
        for name in _imported(module_of(waiting.pop())):
            beside = path.with_name(f"{name}.py")
            if beside != path and beside.name not in helpers and beside.is_file():
                helpers[beside.name] = module_of(beside)
                waiting.append(beside)
    return helpers


def _imported(module: Module) -> set[str]:
    """The names of the modules that a file imports, at any depth of its code."""
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


def _helpers(module: Module, beside: Mapping[str, Module]) -> dict[str, Module]:
    """The helpers of a module among those that travel, by the name that imports them."""
    helpers: dict[str, Module] = {}
    waiting = [module]
    while waiting:
        for name in _imported(waiting.pop()) - set(helpers):
            if (helper := beside.get(f"{name}.py")) is not None:
                helpers[name] = helper
                waiting.append(helper)
    return helpers


OPENED = "__opened_files__"
"""In a participant's module: the files that its code opened when it was imported."""


def load_module(module: Module, beside: Mapping[str, Module] | None = None) -> types.ModuleType:
    """The Python module that a participant's embedded text defines; the same text, once.

    What it imports is looked for among the files `beside` it first, as Python does for a script.
    """
    helpers = _helpers(module, beside or {})
    digest = module.sha256
    if helpers:
        digest = sha256_bytes(
            "".join([digest, *sorted(m.sha256 for m in helpers.values())]).encode()
        )
    name = f"{PARTICIPANT}{digest[:16]}_{Path(module.name).stem}"
    if name in sys.modules:
        return sys.modules[name]
    loaded = types.ModuleType(name)
    loaded.__file__ = module.name
    linecache.cache[module.name] = (
        len(module.text),
        None,
        module.text.splitlines(keepends=True),
        module.name,
    )
    if helpers:
        loaded.__dict__["__builtins__"] = {
            **vars(builtins),
            "__import__": partial(_import, helpers, beside or {}),
        }
    sys.modules[name] = loaded
    try:
        with opened_files() as opened:
            exec(compile(module.text, module.name, "exec"), loaded.__dict__)
        loaded.__dict__[OPENED] = frozenset(opened)
    except Exception as error:
        del sys.modules[name]
        raise PipelineError(
            f"{module.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return loaded


def _import(
    helpers: Mapping[str, Module],
    beside: Mapping[str, Module],
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] = (),
    level: int = 0,
) -> types.ModuleType:
    """`import` inside a participant's file: a helper that travels with it, or any other module."""
    if level == 0 and name in helpers:
        return load_module(helpers[name], beside)
    return builtins.__import__(name, globals, locals, fromlist, level)


def operators_in(module: types.ModuleType) -> dict[str, type[Operator]]:
    """The operators that a module defines, by class name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Operator)
        and value.__module__ == module.__name__
    }


def find_operator(name: str, modules: Mapping[str, Module]) -> type[Operator]:
    """The class behind a step: a known operator, `file.py:Class` or `package.module:Class`.

    A function in place of a class is a mapper of pages, as DCLM's participants write them.
    """
    if ":" not in name:
        known = registry()
        if name in known:
            return known[name]
        raise PipelineError(
            f"unknown operator {name!r}{did_you_mean(name, known)}; see: pipelines ops"
        )
    where, _, class_name = name.rpartition(":")
    if where.endswith(".py"):
        embedded = modules.get(where, modules.get(Path(where).name))
        if embedded is None:
            raise PipelineError(f"{name!r}: the file {where} does not travel with the pipeline")
        beside = {Path(file).name: helper for file, helper in modules.items()}
        module = load_module(embedded, beside)
    else:
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise PipelineError(f"{name!r}: {error}; install it or name a file.py") from None
    member = getattr(module, class_name, None)
    if isinstance(member, types.FunctionType):
        from pipelines.text.page_function import operator_of

        return operator_of(member, name)
    if not (isinstance(member, type) and issubclass(member, Operator)):
        there = operators_in(module)
        raise PipelineError(
            f"{name!r}: {where} defines no operator class {class_name!r}"
            f"{did_you_mean(class_name, there)}; it defines {', '.join(there) or 'none'}"
        )
    return member


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def build(cls: type[Operator], parameters: Mapping[str, JSON], *, where: str) -> Operator:
    """The operator with these parameters. PipelineError names step, key and what is wrong."""
    try:
        return cls.model_validate(dict(parameters))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                hint = did_you_mean(key, cls.model_fields)
                lines.append(f"unknown parameter {key!r}{hint}")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                shown = "" if not key else f"{key} = {problem.get('input')!r}: "
                lines.append(f"{shown}{message}")
        raise PipelineError(
            f"{where}: {cls.name}: {'; '.join(lines)}; see: pipelines ops {cls.name}"
        ) from None
