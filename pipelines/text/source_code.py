"""Source code: files by extension, repositories in parts, repositories as one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field

from pipelines.batch import Batch
from pipelines.operators import Filter, Modifier, Splitter, because
from pipelines.schema import EXTRA, ROW, STRING, TEXT
from pipelines.text import fields

EXTENSIONS: tuple[str, ...] = (
    *(".asm", ".bat", ".cmd", ".c", ".h", ".cs", ".cpp", ".hpp", ".c++", ".h++", ".cc", ".hh"),
    *(".C", ".H", ".cmake", ".css", ".dockerfile", ".f90", ".f", ".f03", ".f08", ".f77", ".f95"),
    *(".for", ".fpp", ".go", ".hs", ".html", ".java", ".js", ".jl", ".lua", "Makefile", ".md"),
    *(".markdown", ".php", ".php3", ".php4", ".php5", ".phps", ".phpt", ".pl", ".pm", ".pod"),
    *(".perl", ".ps1", ".psd1", ".psm1", ".py", ".rb", ".rs", ".sql", ".scala", ".sh", ".bash"),
    *(".command", ".zsh", ".ts", ".tsx", ".tex", ".vb", "Dockerfile", ".svg"),
)
"""Endings of file names that RedPajama-v1 keeps (Together 2023), upper and lower case apart."""


class FileExtensions(Filter, name="file_extensions"):
    """Reject files whose name does not end in one of these, upper and lower case apart."""

    field: str = Field("filename", description="field with the file's name")
    endings: tuple[str, ...] = Field(EXTENSIONS, min_length=1, description="endings to keep")
    reasons: ClassVar[tuple[str, ...]] = ("other_extension",)
    reference: ClassVar[str | None] = "github_extension_filter"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return (self.field,)

    def reject(self, batch: Batch) -> pa.Array:
        names = fields.values_of(batch, self.field)
        rejected = [not isinstance(name, str) or not name.endswith(self.endings) for name in names]
        return because(np.array(rejected, dtype=bool), "other_extension")


class RepositoryParts(Splitter, name="repository_parts"):
    """Cut repositories of many files (the field `files`) into several of at most so many.

    A repository that is cut loses its text; one that is small enough stays as it is.
    """

    max_files: int = Field(1000, ge=1, description="files of a part, at most")
    drop_text: bool = Field(True, description="parts have no text (null) until they are formatted")
    reference: ClassVar[str | None] = "starcoder_v2_repo_splitter"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return ("files", TEXT)

    def split(self, batch: Batch) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        parents: list[int] = []
        entries: list[dict[str, Any]] = []
        whole: list[bool] = []
        for position, files in enumerate(fields.needed(batch, "files", why=self.name)):
            small = len(files) <= self.max_files
            for start in range(0, max(len(files), 1), self.max_files):
                parents.append(position)
                entries.append({"files": files[start : start + self.max_files]})
                whole.append(small)
        taken = batch.table.take(pa.array(parents, type=pa.int64()))
        table = Batch(taken.drop_columns([ROW]) if ROW in taken.column_names else taken)
        columns = {EXTRA: fields.with_entries(table, entries)}
        if self.drop_text and table.has(TEXT):
            keep = pa.array(whole)
            columns[TEXT] = pc.if_else(keep, table.text, pa.scalar(None, STRING))
        return table.write(columns).table, np.array(parents, dtype=np.int64)


class RepositoryText(Modifier, name="repository_text"):
    """Make one text of a repository's files, with StarCoder2's marks. (Lozhkov et al. 2024, 4.2)

    With names, `<repo_name>` and `<file_sep>` with each file's name precede the files; without,
    only the files are given. Which repositories get names is a hash of seed and first file.
    """

    names_fraction: float = Field(0.5, ge=0, le=1, description="share of repositories with names")
    marks: bool = Field(True, description="write marks; else files are parted by an empty line")
    seed: int = Field(0, ge=0, description="another seed, other repositories with names")
    reference: ClassVar[str | None] = "starcoder_v2_format_modifier"

    def reads(self) -> tuple[str, ...]:
        return ()

    def optional_reads(self) -> tuple[str, ...]:
        return ("files", "repo_name")

    def writes(self) -> Mapping[str, pa.DataType]:
        return {TEXT: STRING}

    def modify(self, batch: Batch) -> Mapping[str, pa.Array]:
        every = fields.needed(batch, "files", why=self.name)
        names = fields.values_of(batch, "repo_name")
        texts = [self._text(name, files) for name, files in zip(names, every, strict=True)]
        return {TEXT: pa.array(texts, type=STRING)}

    def _text(self, name: Any, files: list[dict[str, str]]) -> str | None:
        head, between = ("<repo_name>", "<file_sep>") if self.marks else ("", "\n\n")
        key = f"{self.seed}:{name}:{files[0].get('filename') if files else ''}".encode()
        chance = (xxhash.xxh3_64_intdigest(key) >> 11) / float(1 << 53)
        if chance < self.names_fraction:
            text = f"{head}{name}" + "".join(
                f"{between}{file['filename']}\n{file['text']}" for file in files
            )
        else:
            text = "".join(f"{between}{file['text']}" for file in files)
        return (text if self.marks else text.strip()) or None
