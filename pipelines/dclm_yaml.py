"""DCLM's own pipeline files, read as ours: mapper names and keyword arguments become operators.

A reference file is a list of {source, steps}; a step is {func: name, keyword arguments, _aggregate}
or `commit`. `RULES` lists every mapper of the reference (commit 361714b) with the operator that
does its work and the parameters under which the result is the reference's, mistakes included: where
our default is another, the rule sets the named parameter. A name with dots is a participant's
function in a Python file, called with each page as a dictionary.

Lists are found by the base name of the path they are given by, among the assets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.dclm_yaml_rules import NORMALIZERS, RULES, Parameters
from pipelines.errors import PipelineError, did_you_mean
from pipelines.records import JSON


def is_reference(value: JSON) -> bool:
    """Whether parsed YAML is a file of the reference: a list of {source, steps}."""
    return isinstance(value, list) and all(
        isinstance(entry, dict) and "steps" in entry for entry in value
    )


def source_names(value: JSON) -> list[str]:
    """The names of the sources of a file; a number where one has none."""
    assert isinstance(value, list)
    return [str(entry.get("source", number)) for number, entry in enumerate(value)]


def steps_of(value: JSON, *, source: str | None, where: str) -> list[JSON]:
    """The steps of the named source; of the only one when no name is given."""
    assert isinstance(value, list)
    if not value:
        raise PipelineError(f"{where}: expected a mapping with the keys name and steps")
    by_name = dict(zip(source_names(value), value, strict=True))
    if source is None and len(by_name) == 1:
        [entry] = by_name.values()
    elif source in by_name:
        entry = by_name[source]
    else:
        raise PipelineError(
            f"{where} has the sources {', '.join(by_name) or 'none'}; give --input NAME=POOL "
            "for each, or name one: --source NAME"
        )
    return list(entry["steps"] or [])


def our_steps(steps: Sequence[JSON], *, where: str) -> list[JSON]:
    """The reference's steps in our form, each {operator: parameters}.

    Lines split, deduplicated over the pool and joined again become one step on lines.
    """
    ours: list[JSON] = []
    position = 0
    while position < len(steps):
        step = steps[position]
        label = f"{where}: step {position + 1}"
        folded = _fold_lines(steps[position:], label)
        if folded is not None:
            folded_steps, length = folded
            ours += folded_steps
            position += length
            continue
        ours += _our_step(step, label)
        position += 1
    return ours


def _our_step(step: JSON, where: str) -> list[JSON]:
    if step == "commit":  # the platform decides itself when to write
        return []
    if not isinstance(step, dict) or "func" not in step:
        return [step]
    given = {key: value for key, value in step.items() if key != "func"}
    aggregate = given.pop("_aggregate", None) or {}
    name = str(step["func"])
    if name == "exact_dedup":
        steps: list[JSON] = [{"exact_dedup": _exact_dedup(given, unit="document", where=where)}]
    elif "." in name:
        steps = [{_participant(name): given}]
    else:
        steps = [translated(name, given, where=where)]
    return steps + [_counter(key, how, where) for key, how in aggregate.items()]


def translated(name: str, given: Mapping[str, Any], *, where: str) -> JSON:
    """One mapper with its arguments as {operator: parameters}. PipelineError for unknown ones."""
    rule = RULES.get(name)
    if rule is None:
        from pipelines.registry import registry

        if name in registry():
            return {name: dict(given)}
        known = dict.fromkeys([*RULES, *registry()])
        raise PipelineError(f"{where}: unknown mapper {name!r}{did_you_mean(name, known)}")
    for key in given:
        if key not in rule.names:
            raise PipelineError(
                f"{where}: {name} takes no argument {key!r}{did_you_mean(key, rule.names)}; it "
                f"takes {', '.join(rule.names) or 'none'}"
            )
    parameters = {rule.names[key]: value for key, value in {**rule.defaults, **given}.items()}
    try:
        if rule.adapt is not None:
            parameters = rule.adapt(parameters)
    except PipelineError as error:
        raise PipelineError(f"{where}: {name}: {error}") from None
    return {rule.operator: {**rule.fixed, **parameters}}


def _participant(name: str) -> str:
    """`my.module.function` as `my/module.py:function`."""
    if name.startswith("."):
        raise PipelineError(
            f"{name!r}: name the file from the pipeline's folder, without dots first"
        )
    path, _, function = name.rpartition(".")
    return f"{path.replace('.', '/')}.py:{function}"


STATISTICS = ("percentiles", "histogram")
TRANSFORMS = ("threshold_transform",)
DIGITS = 4  # of numbers: the counts behind percentiles stay below 9,000 for a factor of ten


def _counter(key: str, how: Any, where: str) -> JSON:
    """One entry of `_aggregate`: the statistic of a field, of its likeliest language if asked."""
    if not isinstance(how, dict) or how.get("type") not in STATISTICS:
        raise PipelineError(
            f"{where}: _aggregate.{key} is {how!r}; expected a mapping whose type is "
            f"{' or '.join(STATISTICS)}"
        )
    parameters: Parameters = {"by": key, "statistic": how["type"], "digits": DIGITS}
    transform = how.get("transform")
    if transform is None:
        return {"value_counts": parameters}
    if transform not in TRANSFORMS:
        raise PipelineError(f"{where}: _aggregate.{key}: unknown transform {transform!r}")
    if "threshold" not in how:
        raise PipelineError(f"{where}: _aggregate.{key}: threshold_transform needs a threshold")
    parameters |= {
        "min_probability": how["threshold"],
        "default": how.get("default", "unknown"),
    }
    return {"value_counts": parameters}


def _exact_dedup(given: Mapping[str, Any], *, unit: str, where: str) -> Parameters:
    names = {
        "content_key",
        "normalize",
        "selection_key",
        "selection_normalize",
        "selection_reverse",
    }
    unknown = [key for key in given if key not in names]
    if unknown:
        raise PipelineError(
            f"{where}: exact_dedup takes no argument {unknown[0]!r}; it takes {', '.join(names)}"
        )
    parameters: Parameters = {"unit": unit, "column": given.get("content_key", "text")}
    normalize = given.get("normalize")
    if normalize is not None and normalize not in NORMALIZERS:
        raise PipelineError(
            f"{where}: unknown normalize {normalize!r}; known are {', '.join(NORMALIZERS)}"
        )
    parameters["normalize"] = NORMALIZERS[normalize] if normalize else "none"
    if given.get("selection_key") is not None:
        if given.get("selection_normalize") != "hash_text":
            raise PipelineError(f"{where}: selection_normalize: only hash_text is supported")
        largest = bool(given.get("selection_reverse"))
        keep = "max" if largest else "min"
        parameters |= {"keep_by": given["selection_key"], "keep_order": "md5", "keep": keep}
    return parameters


def _fold_lines(steps: Sequence[JSON], where: str) -> tuple[list[JSON], int] | None:
    """Steps from split_lines_modifier to join_lines_modifier with only exact_dedup between."""
    first = steps[0]
    if not isinstance(first, dict) or first.get("func") != "split_lines_modifier":
        return None
    delimiter = first.get("delimiter", "\n")
    line_steps: list[JSON] = []
    for number, step in enumerate(steps[1:], start=1):
        if step == "commit":
            continue
        if not isinstance(step, dict):
            return None
        if step.get("func") == "join_lines_modifier":
            joined = step.get("delimiter", "\n")
            last = next(
                (s for s in reversed(line_steps) if s["exact_dedup"]["unit"] == "line"), None
            )  # type: ignore[index, call-overload]
            if joined != delimiter:
                if last is None:
                    return None
                last["exact_dedup"]["joined_by"] = joined  # type: ignore[index, call-overload]
            return line_steps, number + 1
        if step.get("func") != "exact_dedup":
            return None
        given = {k: v for k, v in step.items() if k not in ("func", "_aggregate")}
        lines = given.get("content_key", "text") == "text"
        parameters = _exact_dedup(given, unit="line" if lines else "document", where=where)
        if lines:
            parameters["delimiter"] = delimiter
        line_steps.append({"exact_dedup": parameters})
    return None
