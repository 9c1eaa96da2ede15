"""Where the numbers in the docs come from: ``python -m bench all``, from the repository's root."""
