"""Several extractors on the same pages: what each reads, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.engine.apply import apply
from pipelines.engine.run import run
from pipelines.formats.pool import open_pool
from pipelines.formats.warc import ExtractOptions, documents
from pipelines.pipeline import Pipeline
from pipelines.text.extraction import extractor_of

ARTICLE = "The tide comes twice a day, and the fishermen of the bay know it by heart. " * 6
PAGE = f"""<html><head><title>Tides</title><style>p {{color: red}}</style></head><body>
<nav><a href="/">Home</a> <a href="/a">About us</a></nav>
<article><h1>Tides</h1><p>{ARTICLE}</p></article><script>alert(1)</script></body></html>"""


def extracted(extractor: str, *pages: str, **more: Any) -> Any:
    step = {"extract_text": {"extractor": extractor, **more}}
    return apply(Pipeline.from_steps([step]), pa.table({"text": pages}), quarantine=False)


@pytest.mark.parametrize("extractor", ["resiliparse_main", "trafilatura"])
def test_main_content_is_the_article_without_navigation(extractor: str) -> None:
    if extractor == "trafilatura":
        pytest.importorskip("trafilatura")
    [text] = extracted(extractor, PAGE).table["text"].to_pylist()
    assert ARTICLE.strip() in text
    assert "About us" not in text


@pytest.mark.parametrize("extractor", ["resiliparse_all", "selectolax"])
def test_all_text_is_what_can_be_seen(extractor: str) -> None:
    if extractor == "selectolax":
        pytest.importorskip("selectolax")
    [text] = extracted(extractor, PAGE).table["text"].to_pylist()
    assert ARTICLE.strip() in text
    assert "About us" in text
    assert "alert" not in text
    assert "color" not in text


def test_pages_without_text_are_rejected_and_bytes_are_counted() -> None:
    result = extracted("resiliparse_all", PAGE, "<html><body> </body></html>", "")
    assert result.table["row"].to_pylist() == [0]
    assert result.rejected["reason"].to_pylist() == ["no_text", "no_text"]
    text = result.table["text"][0].as_py()
    assert result.stats.step(0).counters == {
        "html_bytes": len(PAGE) + len("<html><body> </body></html>"),
        "text_bytes": len(text),
    }


def test_pages_that_a_list_of_urls_refuses_are_never_extracted() -> None:
    pages = pa.table({"text": [PAGE] * 3, "url": [f"https://{n}.example.org/" for n in "abc"]})
    steps = [{"domains": {"hosts": ["a.example.org", "c.example.org"]}}, {"extract_text": {}}]
    result = apply(Pipeline.from_steps(steps), pages, quarantine=False)
    assert result.rejected["reason"].to_pylist() == ["blocked_domain"] * 2
    assert result.stats.step(1).counters["html_bytes"] == len(PAGE)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install selectolax"):
        extractor_of("selectolax")


def test_a_web_archive_kept_as_html_gives_the_text_of_the_reader(
    data: Path, tmp_path: Path
) -> None:
    """The step on kept pages is the reader's own extraction, page by page."""
    import orjson

    archive = data / "warc" / "sample-0000.warc.gz"

    def of(extractor: str) -> dict[str, str | None]:
        with archive.open("rb") as file:
            options = ExtractOptions(extractor=extractor)  # type: ignore[arg-type]
            return {page.url or "": page.text for page in documents(file, options=options)}

    html, expected = of("html"), of("resiliparse_main")
    pages = [{"url": url, "text": page} for url, page in html.items() if page is not None]
    (tmp_path / "pool").mkdir()
    lines = b"".join(orjson.dumps(page) + b"\n" for page in pages)
    (tmp_path / "pool" / "0.jsonl").write_bytes(lines)
    pipeline = Pipeline.from_steps([{"extract_text": {}}], name="x")
    result = run(pipeline, open_pool(str(tmp_path / "pool")), out=str(tmp_path / "out"))
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "out" / result.record.outputs[0].name)
    texts = dict(zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True))
    there = {url: text for url, text in expected.items() if text is not None}
    assert len(there) > 10
    assert {url: text for url, text in texts.items() if text is not None} == there
