"""The tiers of the tests: the default one, slow and soak."""

from __future__ import annotations

import pytest


def leaves_out(config: pytest.Config) -> bool:
    """Return whether the run leaves out the higher tiers: no ``-m`` and no test id selects them."""
    return not config.option.markexpr and not any("::" in argument for argument in config.args)
