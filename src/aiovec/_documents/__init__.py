"""Reading documents in a separate process, since a hostile document may crash its reader."""
