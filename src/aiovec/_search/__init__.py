"""The parts of a search that all backends share: words, snippets, fusion and distances."""
