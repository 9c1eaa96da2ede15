"""What ``python -m bench text`` measures, and on what."""
