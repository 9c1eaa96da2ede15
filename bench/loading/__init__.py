"""A store under the load of many tasks, in a process of its own."""
