"""What rows, schemas and results are: the layer that imports nothing of aiovec but its errors."""
