"""Wire formats: request bodies to numpy arrays, and results to response bodies."""
