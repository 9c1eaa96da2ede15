"""The comparison of two stores: every row, and what searches find."""
