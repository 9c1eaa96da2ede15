"""The settings: their models, how they are loaded, and what an error of theirs says."""
