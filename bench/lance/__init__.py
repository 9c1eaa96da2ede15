"""LanceDB through aiovec, side by side with LanceDB called directly."""
