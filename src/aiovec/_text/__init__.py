"""The parts of keyword search that all backends share: the query language and snippets."""
