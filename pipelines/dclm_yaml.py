"""DCLM's own pipeline files, read as ours: mapper names and keyword arguments become operators.

A reference file is a list of {source, steps}; a step is {func: name, keyword arguments, _aggregate}
or `commit`. `RULES` lists every mapper of the reference (commit 361714b) with the operator that
does its work and the parameters under which the result is the reference's, mistakes included: where
our default is another, the rule sets the named parameter. A name with dots is a participant's
function in a Python file, called with each page as a dictionary.

Lists are found by the base name of the path they are given by, among the assets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.operators import PipelineError
from pipelines.records import JSON
from pipelines.registry import did_you_mean
from pipelines.text.source_code import EXTENSIONS

Parameters = dict[str, Any]
Adapt = Callable[[Parameters], Parameters]


@dataclass(frozen=True)
class Rule:
    """How one mapper is said in our words: `names` maps its arguments to our parameters."""

    operator: str
    names: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, JSON] = field(default_factory=dict)
    defaults: Mapping[str, JSON] = field(default_factory=dict)
    adapt: Adapt | None = None


WORDS = {
    "model": "words",
    "ignore_punctuation": "skip_punctuation",
    "ignore_whitespace": "skip_whitespace",
}
LINES = {"keep_blank": True}
WORD_KINDS = {"fasttext": "fasttext", "uniseg": "uax29", "split": "whitespace"}
SENTENCES = {"blingfire": "blingfire", "nltk": "punkt"}


def _choice(given: Any, known: Mapping[str, str], what: str) -> str:
    if given not in known:
        raise PipelineError(f"{what} {given!r} is unknown; expected one of {', '.join(known)}")
    return known[given]


def _words(p: Parameters) -> Parameters:
    if "words" in p:
        p["words"] = _choice(p["words"], WORD_KINDS, "the word model")
    return p


def _infinite(name: str) -> Adapt:
    """No bound where the bound is infinite."""

    def adapt(p: Parameters) -> Parameters:
        if isinstance(p.get(name), float) and math.isinf(p[name]):
            p[name] = None
        return p

    return adapt


def _length(p: Parameters) -> Parameters:
    unit = {"char": "character"}.get(p.get("unit", ""), p.get("unit"))
    p["unit"] = unit
    if "sentences" in p:
        p["sentences"] = _choice(p["sentences"], SENTENCES, "the sentence tokenizer")
    if unit == "word":
        _words(p)
    return _infinite("max_units")(p)


def _banlist(p: Parameters) -> Parameters:
    if isinstance(p.get("phrases"), str):
        p["phrases"] = [p["phrases"]]
    if "list_asset" in p:
        p["list_asset"] = base_name(p["list_asset"])
    return p


def _url_banlist(p: Parameters) -> Parameters:
    p = _banlist(p)
    if "match_substrings" in p:
        p["whole_words"] = not p.pop("match_substrings")
    return p


def _repetition(p: Parameters) -> Parameters:
    unit = p.get("unit")
    if unit not in ("line", "paragraph") and not isinstance(unit, int):
        raise PipelineError(f"granularity is line, paragraph or a whole number, got {unit!r}")
    return p


def _asset(name: str) -> Adapt:
    def adapt(p: Parameters) -> Parameters:
        if name in p:
            p[name] = base_name(p[name])
        return p

    return adapt


def _stop_words(p: Parameters) -> Parameters:
    # The reference compares while it counts, so a page without any is dropped even at 0.
    p["min_stop_words"] = max(int(p["min_stop_words"]), 1)
    return p


def _quality(p: Parameters) -> Parameters:
    threshold, lower = p.pop("threshold"), p.pop("lower_better")
    p["max_score" if lower else "min_score"] = threshold
    p["missing"] = "error" if p.pop("key_must_exist") else "reject"
    return p


def _language_scores(p: Parameters) -> Parameters:
    p["field"] = f"{p.pop('key_prefix')}_{p['model']}"
    if p.get("seed") is None:
        p.pop("seed", None)
    elif p["model"] == "fasttext":
        raise PipelineError("a seed is only for model: langdetect; fastText draws nothing")
    return p


def _compiled_language_scores(p: Parameters) -> Parameters:
    p = _language_scores(p)
    if p["model"] == "fasttext":
        p["engine"] = "compiled"
    return p


def _sentence_languages(p: Parameters) -> Parameters:
    p["sentences"] = _choice(p["sentences"], SENTENCES, "the sentence tokenizer")
    return _language_scores(p)


def _rename(p: Parameters) -> Parameters:
    p["existing"] = "replace" if p.pop("allow_overwrite") else "keep"
    return p


def _probability(name: str) -> Adapt:
    def adapt(p: Parameters) -> Parameters:
        p[name] = float(p[name])
        return p

    return adapt


def _measure(p: Parameters) -> Parameters:
    p["measure"] = _choice(p["measure"], {"max": "longest", "avg": "mean"}, "the length_type")
    return p


LANGUAGE = {"overwrite": "overwrite", "model": "model", "seed": "seed"}

RULES: dict[str, Rule] = {
    "github_extension_filter": Rule(
        "file_extensions",
        {"filename_key": "field", "allowed_extensions": "endings"},
        defaults={"allowed_extensions": list(EXTENSIONS)},
    ),
    "line_length_filter": Rule(
        "line_characters",
        {"length_type": "measure", "max_length": "max_characters"},
        defaults={"length_type": "max", "max_length": 1000},
        adapt=_measure,
    ),
    "alphanumeric_char_ratio_filter": Rule(
        "alphanumeric_characters", {"max_alnum_ratio": "min_fraction"}
    ),
    "alphabetic_characters_to_tokens_filter": Rule(
        "letters_per_token",
        {"tokenizer_name": "tokenizer", "max_ratio": "min_ratio"},
        defaults={"tokenizer_name": "gpt-neox-20b.json"},
        adapt=_asset("tokenizer"),
    ),
    "massive_web_repetition_filters": Rule(
        "gopher_repetition",
        {"skip_paragraph": "skip"},
        {"every_copy": True},
        adapt=lambda p: {
            **{k: v for k, v in p.items() if k != "skip"},
            "paragraphs": not p.get("skip", False),
        },
    ),
    "repetition_filter": Rule(
        "repetition",
        {
            "granularity": "unit",
            "max_fraction": "max_fraction",
            "count_characters": "characters",
            "ngram_char_ratio": "covered",
            "ignore_case": "ignore_case",
        },
        {"every_copy": True},
        adapt=_repetition,
    ),
    "page_length_filter": Rule(
        "length",
        {
            "length_type": "unit",
            "min_length": "min_units",
            "max_length": "max_units",
            "remove_empty": "skip_empty",
            "tokenizer": "sentences",
            "tokenizer_lang": "language",
            **WORDS,
        },
        adapt=_length,
    ),
    "substring_filter": Rule(
        "substrings",
        {
            "banlist": "phrases",
            "banlist_from_fname": "list_asset",
            "location": "location",
            "case_sensitive": "case_sensitive",
            "exact_word": "whole_words",
        },
        {"regex": True},
        adapt=_banlist,
    ),
    "bullet_count_filter": Rule("bullet_lines", {"max_bullet_start_ratio": "max_fraction"}),
    "ellipsis_count_filter": Rule("ellipsis_lines", {"max_ellipsis_end_ratio": "max_fraction"}),
    "stop_word_filter": Rule(
        "stop_words",
        {"count_unique": "distinct", "min_stop_word": "min_stop_words"},
        defaults={"min_stop_word": 2},
        adapt=_stop_words,
    ),
    "word_length_filter": Rule(
        "mean_word_length",
        {"min_length": "min_length", "max_length": "max_length"},
        defaults={"min_length": 0, "max_length": math.inf},
        adapt=_infinite("max_length"),
    ),
    "symbol_ratio_filter": Rule("symbol_ratio", {"max_symbol_to_word_ratio": "max_ratio"}),
    "word_removal_ratio_filter": Rule(
        "words_removed",
        {
            "prev_word_count_key": "before",
            "new_word_count_key": "now",
            "max_removed_ratio": "max_fraction",
            **WORDS,
        },
        adapt=_words,
    ),
    "alphabetic_word_ratio_filter": Rule("alphabetic_words", {"max_ratio": "max_other_fraction"}),
    "random_sampling_filter": Rule(
        "sample_rows",
        {"keep_probability": "keep_fraction"},
        defaults={"keep_probability": 0.1},
        adapt=_probability("keep_fraction"),
    ),
    "language_filter": Rule(
        "language_from_scores",
        {"keep_languages": "keep", "key": "field", "threshold": "above"},
        defaults={"key": "language_id_whole_page_langdetect"},
    ),
    "quality_filter": Rule(
        "threshold",
        {
            "key": "by",
            "threshold": "threshold",
            "lower_better": "lower_better",
            "key_must_exist": "key_must_exist",
        },
        defaults={
            "key": "fasttext_hq_prob",
            "threshold": 0.0,
            "lower_better": False,
            "key_must_exist": True,
        },
        adapt=_quality,
    ),
    "url_substring_filter": Rule(
        "url_substrings",
        {
            "banlist": "phrases",
            "banlist_from_fname": "list_asset",
            "ignore_chars": "remove",
            "num_banned_substrs": "min_phrases",
            "exact_domain_match": "hosts",
            "match_substrings": "match_substrings",
            "case_sensitive": "case_sensitive",
        },
        adapt=_url_banlist,
    ),
    "starcoder_v2_repo_splitter": Rule(
        "repository_parts", {"max_files": "max_files", "delete_content": "drop_text"}
    ),
    "starcoder_v2_format_modifier": Rule(
        "repository_text", {"add_metadata_prob": "names_fraction", "add_sentinels": "marks"}
    ),
    "arxiv_appendix_modifier": Rule("latex_appendix"),
    "arxiv_comment_modifier": Rule(
        "latex_comments", {"remove_multiline": "environments"}, {"eat_character_before": True}
    ),
    "arxiv_macro_modifier": Rule("latex_macros"),
    "arxiv_section_strip_modifier": Rule("latex_preamble", fixed={"split_paragraph_command": True}),
    "stackexchange_list_modifier": Rule("post_lists"),
    "stackexchange_answer_sort_modifier": Rule("sort_answers", {"descending": "descending"}),
    "stackexchange_html_extraction_modifier": Rule("post_html"),
    "stackexchange_qa_formatter": Rule("question_text", {"remove_qa": "drop_posts"}),
    "move_url_modifier": Rule("url_from_metadata"),
    "key_name_modifier": Rule(
        "rename_field",
        {"old_key": "old", "new_key": "new", "allow_overwrite": "allow_overwrite"},
        defaults={"allow_overwrite": False},
        adapt=_rename,
    ),
    "html_content_extraction_modifier": Rule("html_paragraphs"),
    "substring_line_modifier": Rule(
        "substring_lines",
        {
            "banlist": "phrases",
            "case_sensitive": "case_sensitive",
            "location": "location",
            "max_length": "max_words",
            "remove_substring_only": "remove_only",
        },
        {"regex": True, "drop_blank": True, **LINES},
        adapt=_banlist,
    ),
    "punctuation_line_modifier": Rule(
        "unfinished_lines", {"remove_ellipses": "drop_ellipses"}, LINES
    ),
    "line_length_modifier": Rule(
        "line_words",
        {"min_length": "min_words", "max_length": "max_words"},
        LINES,
        defaults={"min_length": 0},
        adapt=_infinite("max_words"),
    ),
    "word_length_modifier": Rule(
        "long_word_lines",
        {"max_length": "max_characters", **WORDS},
        LINES,
        defaults={"model": "fasttext"},
        adapt=_words,
    ),
    "uppercase_ratio_line_modifier": Rule(
        "uppercase_lines", {"max_ratio": "max_fraction"}, {**LINES, "strip": True}
    ),
    "numeric_ratio_line_modifier": Rule(
        "digit_lines",
        {"max_ratio": "max_fraction"},
        {**LINES, "strip": True},
        defaults={"max_ratio": 1.0},
    ),
    "citation_removal_modifier": Rule("citations"),
    "url_removal_modifier": Rule(
        "remove_urls",
        {"tlds_filepath": "domains"},
        {"only_if_text_starts_with_domain": True},
        adapt=_asset("domains"),
    ),
    "counter_line_modifier": Rule("counter_lines", fixed={**LINES, "strip": True}),
    "within_page_dedup": Rule(
        "drop_repeated_lines", {"granularity": "unit", "normalize": "normalize"}, LINES
    ),
    "newline_removal_modifier": Rule("newlines", {"max_consecutive": "max_newlines"}),
    "split_lines_modifier": Rule("split_lines", {"delimiter": "delimiter"}),
    "join_lines_modifier": Rule("join_lines", {"delimiter": "delimiter"}),
    "line_counter_enricher": Rule(
        "count_lines",
        {
            "paragraph_end": "separator",
            "remove_empty": "skip_empty",
            "key": "column",
            "overwrite": "overwrite",
        },
    ),
    "word_counter_enricher": Rule(
        "count_words", {"key": "column", "overwrite": "overwrite", **WORDS}, adapt=_words
    ),
    "detect_lang_whole_page_enricher": Rule(
        "language_scores",
        {"key_prefix": "key_prefix", **LANGUAGE},
        {"newlines": "delete"},
        defaults={"key_prefix": "language_id_whole_page", "model": "fasttext"},
        adapt=_compiled_language_scores,
    ),
    "detect_lang_paragraph_enricher": Rule(
        "sentence_languages",
        {"key_prefix": "key_prefix", "tokenizer": "sentences", **LANGUAGE},
        {"newlines": "error"},
        defaults={
            "key_prefix": "language_id_paragraph",
            "model": "fasttext",
            "tokenizer": "blingfire",
        },
        adapt=_sentence_languages,
    ),
    "classify_fasttext_hq_prob_enricher": Rule(
        "quality_score",
        {"model_filename": "model", "key": "column", "overwrite": "overwrite"},
        {"whitespace": "lines", "engine": "compiled"},
        defaults={"model_filename": "model.bin", "key": "fasttext_hq_prob", "overwrite": False},
        adapt=_asset("model"),
    ),
    "ken_lm_perplexity_enricher": Rule("perplexity", {"key": "column", "overwrite": "overwrite"}),
}

NORMALIZERS = {
    "normalize_url": "url",
    "normalize_whitespace_and_lowercase": "strip_lowercase",
    "ccnet_dedup_normalizer": "ccnet",
}


def base_name(path: Any) -> str:
    """The asset's name in a path of the reference."""
    return Path(str(path)).name


def is_reference(value: JSON) -> bool:
    """Whether parsed YAML is a file of the reference: a list of {source, steps}."""
    return isinstance(value, list) and all(
        isinstance(entry, dict) and "steps" in entry for entry in value
    )


def steps_of(value: JSON, *, source: str | None, where: str) -> list[JSON]:
    """The steps of the named source; of the only one when no name is given."""
    assert isinstance(value, list)
    by_name = {str(entry.get("source", number)): entry for number, entry in enumerate(value)}
    if source is None and len(by_name) == 1:
        [entry] = by_name.values()
    elif source in by_name:
        entry = by_name[source]
    else:
        raise PipelineError(
            f"{where} has the sources {', '.join(by_name) or 'none'}; name one: "
            "pipelines import FILE --source NAME"
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
        label = f"{where}: steps[{position}]"
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
    return steps + [_counter(key, how) for key, how in aggregate.items()]


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


def _counter(key: str, how: Mapping[str, Any]) -> JSON:
    parameters: Parameters = {"by": key}
    if how.get("transform") == "threshold_transform":
        parameters["min_probability"] = how["threshold"]
        parameters["default"] = how.get("default", "unknown")
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
