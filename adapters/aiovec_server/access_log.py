"""The access log: one line of JSON for each request.

No query, header, body, id of a row or key is in it.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as _text

from .lines import Lines
from .observing import Observed


class AccessLog:
    """Writes a line for each request that ended."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def begun(self) -> None:
        pass

    def ended(self, observed: Observed) -> None:
        # Written by hand, at a third of an encoder's time. All that a client may have chosen is
        # escaped, so that a line is one line.
        members = (
            f'"request": {_text(observed.id)}, "client": {_text(observed.client)}, '
            f'"method": "{observed.method}", "route": {_text(observed.route)}, '
            f'"table": {"null" if observed.table is None else _text(observed.table)}, '
            f'"status": {observed.status}, "ms": {observed.seconds * 1000:.3f}, '
            f'"received": {observed.received}, "sent": {observed.sent}'
        )
        if observed.access is not None:
            members += f', "key": "{observed.access}"'
        if not observed.whole:
            members += ', "broken": true'
        self._lines.put_members(members)
