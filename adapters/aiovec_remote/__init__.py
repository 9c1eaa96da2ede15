"""The client of a store that another process serves over HTTP."""
