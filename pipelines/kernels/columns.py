"""The columns of the figures that kernels measure: of documents (stats), of lines (lines)."""

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

CHARACTERS, UPPERCASE, DIGITS, LINE_WORDS = range(4)
