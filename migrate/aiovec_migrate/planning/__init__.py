"""The plan of a migration: what a run would do, and what would stop it."""
