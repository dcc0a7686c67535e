"""Pages and rows of the sources of a tiny pool."""

from __future__ import annotations

from dclm.pool.tiny_pages import ngrams, pages, rows, shares_text
from tests.dclm.pool.made_up_sources import PROSE, SPEECH, source

MAIL = source("novel", content="mail", url="https://mail.example/")


def mail_page(data: bytes) -> tuple[str, bytes]:
    [actual] = pages([("spam/1.txt", data)], source=MAIL)
    assert actual.url == "https://mail.example/spam/1.html"
    return actual.content_type, actual.body


def test_plain_mail_becomes_a_page_with_subject_and_text_only() -> None:
    data = (
        b"From: someone@example.org\nTo: other@example.org\nSubject: =?iso-8859-1?q?Gr=FC=DFe?=\n"
        b"Content-Type: text/plain; charset=iso-8859-1\n\nTea & cake at \xbd past five <soon>.\n"
    )
    content_type, body = mail_page(data)
    assert content_type == "text/html; charset=utf-8"
    assert body.decode() == (
        "<!DOCTYPE html>\n<html>\n<head><title>Grüße</title></head>\n<body>\n<h1>Grüße</h1>\n"
        "<pre>Tea &amp; cake at ½ past five &lt;soon&gt;.\n</pre>\n</body>\n</html>\n"
    )


def test_html_mail_keeps_its_bytes_and_its_charset() -> None:
    data = (
        b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/alternative; boundary=B\n\n"
        b"--B\nContent-Type: text/plain\n\nplain\n"
        b"--B\nContent-Type: text/html; charset=Windows-1252\n"
        b"Content-Transfer-Encoding: quoted-printable\n\n<p>caf=E9</p>\n--B--\n"
    )
    assert mail_page(data) == ("text/html; charset=windows-1252", b"<p>caf\xe9</p>\n"[:-1])


def test_mail_with_a_made_up_charset_is_still_read() -> None:
    data = b"Subject: x\nContent-Type: text/plain; charset=DEFAULT\n\nvoil\xe0\n"
    assert "voilà" in mail_page(data)[1].decode()


def test_rows_hold_whole_paragraphs_of_prose_up_to_the_limit() -> None:
    paragraphs = [
        "A heading",
        f"One. {PROSE.strip()}",
        f"Two. {PROSE.strip()}",
        f"Three. {PROSE.strip()} The wall still stands.",
    ]
    item = source(
        "speeches", role="heldout", content="text", max_characters=400, max_rows_per_page=9
    )
    text = "\n\n".join(paragraphs)
    actual = list(rows([("a.txt", text.encode())], source=item))
    assert [row.id for row in actual] == ["speeches/a.txt#0", "speeches/a.txt#1"]
    assert [row.text for row in actual] == [f"{paragraphs[1]}\n{paragraphs[2]}", paragraphs[3]]
    assert [len(row.text) <= 400 for row in actual] == [True, True]


def test_paragraph_longer_than_a_row_is_cut_between_sentences() -> None:
    item = source(
        "speeches", role="heldout", content="text", max_characters=300, max_rows_per_page=9
    )
    actual = list(rows([("a.txt", (SPEECH * 3).encode())], source=item))
    # The six sentences have 87 and 88 characters: three of them fit.
    assert [row.text.count(".") for row in actual] == [3, 3]
    assert " ".join(row.text for row in actual) == (SPEECH * 3).strip()


def test_page_without_prose_gives_no_row() -> None:
    item = source("speeches", role="heldout", content="text")
    assert list(rows([("a.txt", b"Contents\n\nNext page\n\n1 2 3 4")], source=item)) == []


def test_shared_run_of_25_words_is_found_wherever_it_begins() -> None:
    words = [f"w{i}" for i in range(60)]
    protected = ngrams(" ".join(words), stride=1)
    for before in range(13):
        filler = [f"f{i}" for i in range(before)]
        text = " ".join([*filler, *words[20:45], *(f"g{i}" for i in range(30))])
        assert shares_text(text, protected=protected)
    assert not shares_text(" ".join([*words[20:32], "new", *words[33:44]]), protected=protected)
