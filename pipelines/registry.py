"""Operators by name: the built-in ones, and those of a participant's file or installed module."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from pipelines.errors import PipelineError, did_you_mean
from pipelines.operators import PARTICIPANT, REGISTRY, Operator
from pipelines.participant_code import beside_of, import_package, load_module
from pipelines.records import JSON, Module

BUILTIN = (
    "pipelines.text.aggregates",
    "pipelines.text.score_columns",
    "pipelines.text.source_code",
    "pipelines.text.contamination",
    "pipelines.text.contamination_scores",
    "pipelines.text.extraction",
    "pipelines.text.rephrase",
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
    "pipelines.dedup.embedding",
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


def operators_in(module: types.ModuleType) -> dict[str, type[Operator]]:
    """The operators that a module defines, by class name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Operator)
        and value.__module__ == module.__name__
    }


def page_functions_in(module: types.ModuleType) -> dict[str, type[Operator]]:
    """The functions of a page that a module defines, as operators: `page` is their first parameter.

    A factory of such functions is known by its use in a pipeline alone.
    """
    from pipelines.text.page_function import operator_of

    return {
        name: operator_of(value, name)
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType)
        and value.__module__ == module.__name__
        and value.__code__.co_argcount
        and value.__code__.co_varnames[0] == "page"
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
        module = load_module(embedded, beside_of(where, modules))
    else:
        try:
            module = import_package(where)
        except ModuleNotFoundError as error:
            raise PipelineError(f"{name!r}: {error}; install it or name a file.py") from None
        except (Exception, SystemExit) as error:
            raise PipelineError(
                f"{where} cannot be imported: {type(error).__name__}: {error}"
            ) from error
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


def build(cls: type[Operator], parameters: Mapping[str, JSON], *, where: str) -> Operator:
    """The operator with these parameters. PipelineError names step, key and what is wrong."""
    try:
        return cls.model_validate(dict(parameters))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            if problem["type"] in ("tuple_type", "list_type"):
                lines.append(f"{key} = {problem['input']!r}: write a list, [{problem['input']}]")
            elif problem["type"] == "missing":
                lines.append(f"{key} is not given")
            elif problem["type"] == "extra_forbidden":
                hint = did_you_mean(key, cls.model_fields)
                lines.append(f"unknown parameter {key!r}{hint}")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                shown = "" if not key else f"{key} = {problem.get('input')!r}: "
                if isinstance(problem.get("input"), bool) and "string" in message:
                    message += " (YAML reads yes, no, on and off as truth values: quote the word)"
                lines.append(f"{shown}{message}")
        raise PipelineError(
            f"{where}: {cls.name}: {'; '.join(lines)}; see: pipelines ops {_where_described(cls)}"
        ) from None


def _where_described(cls: type[Operator]) -> str:
    """What to give `pipelines ops` for an operator's page."""
    if not cls.__module__.startswith(PARTICIPANT):
        return cls.name
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{cls.__name__.rpartition(':')[2]} --from {file}"
