"""Tools that do not depend on stores: late imports, entry points, messages without secrets."""
