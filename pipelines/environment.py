"""Environment variables that a command sets, and its workers take over."""

ASSET_FOLDERS = "CURATION_BENCH_ASSETS"
"""Folders of assets, as PATH lists folders."""
