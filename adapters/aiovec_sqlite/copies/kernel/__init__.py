"""The scan of resident copies in native code, and the code that loads, checks and builds it."""
