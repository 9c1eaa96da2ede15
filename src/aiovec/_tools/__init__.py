"""Tools that know no store: late imports, entry points, and messages without secrets."""
