"""DataComp for language models: what this benchmark fixes. Its rules are in benchmark.yaml."""
