"""What every store does, whatever backend lies under it."""
