"""A run's output as a Ray dataset."""

from __future__ import annotations

from typing import Any

from pipelines.execution.ray_executor import RayMap


def as_dataset(run_uri: str) -> Any:
    """A finished run as a `ray.data.Dataset` of the shards that its record names, in order."""
    import fsspec.implementations.http  # noqa: F401 - ray's threads would race to import it
    import ray.data

    from pipelines.records import parse_record
    from pipelines.storage.chain import RECORD
    from pipelines.storage.open import open_store

    store = open_store(run_uri)
    record = parse_record(store.read_bytes(RECORD), source=f"{store.uri}/{RECORD}")
    RayMap().connect()
    names = [file.name for file in record.outputs]
    if all(name.endswith(".parquet") for name in names):
        return ray.data.read_parquet([f"{store.uri}/{name}" for name in names])
    shards = [{"uri": store.uri, "name": name, "shard": n} for n, name in enumerate(names)]
    return ray.data.from_items(shards).flat_map(_rows_of)


def _rows_of(shard: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a shard that Ray itself does not read, as JSON lines in zstd."""
    from pipelines.formats.readers import read_whole
    from pipelines.storage.open import open_store

    tables = read_whole(open_store(shard["uri"]), shard["name"], shard=shard["shard"])
    return [row for table in tables for row in table.to_pylist()]
