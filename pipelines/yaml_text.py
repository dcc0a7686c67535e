"""YAML that people write, read strictly: a key that comes twice is an error, not the last value."""

from __future__ import annotations

from typing import Any

import yaml


class _Strict(yaml.SafeLoader):
    """YAML's safe loader, with each key of a mapping once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """The value of one YAML document. yaml.YAMLError for what is none, and for a key twice."""
    return yaml.load(text, Loader=_Strict)


def load_plain(text: str) -> Any:
    """The value of one YAML document, by libyaml where it is there: ten times as fast, not strict.

    For the many small files of suites and tasks, which a service reads when it starts.
    """
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
