"""The columns of the figures that `pipelines.kernels.stats.documents` measures."""

(
    WORDS,
    WORD_CHARACTERS,
    WORDS_WITH_LETTER,
    STOPS,
    DISTINCT_STOPS,
    HASHES,
    DOTS,
    SPACED_DOTS,
    ELLIPSES,
    LINES,
    BULLETS,
    ELLIPSIS_ENDS,
    FASTTEXT_WORDS,
) = range(13)
