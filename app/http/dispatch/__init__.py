"""Where a request runs: which view, on which thread, and whether Flask's context is needed."""
