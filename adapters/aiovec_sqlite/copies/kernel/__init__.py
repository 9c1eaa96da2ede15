"""The native scan of resident copies, and the code that loads, checks and compiles it."""
