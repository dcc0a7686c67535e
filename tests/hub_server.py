"""Datasets and models of a folder, served as the Hugging Face hub does: tree and files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_server import WebServer

COMMIT = "0" * 40


class HubServer(WebServer):
    """`folder/owner/name/...` are the datasets and models."""

    def respond(self, path: str) -> tuple[int, bytes, dict[str, str]] | Path | None:
        parts = urlsplit(path)
        clean = unquote(parts.path)
        info = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)(/revision/[^/]+)?", clean)
        if info:
            return self._json(
                {"id": info[1], "sha": COMMIT, "siblings": [], "private": False}, info[1]
            )
        tree = re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/tree/[^/]+/?(.*)", clean)
        if tree:
            return self._json(self._tree(tree[1], tree[2]), tree[1])
        file = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/(.*)", clean)
        return self.folder / file[1] / file[2] if file else None

    def respond_to_post(self, path: str, sent: bytes) -> tuple[int, bytes, dict[str, str]] | None:
        """What the hub says of some files by name."""
        asked = re.fullmatch(
            r"/api/(?:datasets|models)/([^/]+/[^/]+)/paths-info/[^/]+", unquote(path)
        )
        if asked is None:
            return None
        names = json.loads(sent)["paths"] if sent[:1] == b"{" else parse_qs(sent.decode())["paths"]
        tree = self._tree(asked[1], "")
        return self._json([file for file in tree if file["path"] in names], asked[1])

    def _json(self, value: Any, dataset: str) -> tuple[int, bytes, dict[str, str]]:
        if not (self.folder / dataset).is_dir():
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def _tree(self, dataset: str, below: str) -> list[dict[str, Any]]:
        root = self.folder / dataset
        collected = []
        for path in sorted((root / below).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_dir():
                collected.append({"type": "directory", "oid": COMMIT, "size": 0, "path": name})
                continue
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            collected.append(
                {
                    "type": "file",
                    "oid": COMMIT,
                    "size": len(data),
                    "path": name,
                    "lfs": {"oid": sha256, "size": len(data), "pointerSize": 130},
                }
            )
        return collected
