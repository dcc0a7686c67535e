"""DCLM's functions as our operators: each with its parameters' names here and there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import PipelineError
from pipelines.records import JSON
from pipelines.text.source_code import EXTENSIONS


def base_name(path: Any) -> str:
    """The asset's name in a path of the reference."""
    return Path(str(path)).name


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


def choice(given: Any, known: Mapping[str, str], what: str) -> str:
    if given not in known:
        raise PipelineError(f"{what} {given!r} is unknown; expected one of {', '.join(known)}")
    return known[given]


def _words(p: Parameters) -> Parameters:
    if "words" in p:
        p["words"] = choice(p["words"], WORD_KINDS, "the word model")
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
        p["sentences"] = choice(p["sentences"], SENTENCES, "the sentence tokenizer")
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
    p["sentences"] = choice(p["sentences"], SENTENCES, "the sentence tokenizer")
    return _compiled_language_scores(p)


def _rename(p: Parameters) -> Parameters:
    p["existing"] = "replace" if p.pop("allow_overwrite") else "keep"
    return p


def _probability(name: str) -> Adapt:
    def adapt(p: Parameters) -> Parameters:
        p[name] = float(p[name])
        return p

    return adapt


def _measure(p: Parameters) -> Parameters:
    p["measure"] = choice(p["measure"], {"max": "longest", "avg": "mean"}, "the length_type")
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
