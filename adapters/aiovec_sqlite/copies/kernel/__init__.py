"""The scan of resident copies in native code, and how it is found, checked and built."""
