"""Tools that do not depend on stores: late imports, entry points, and messages without secrets."""
