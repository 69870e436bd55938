"""What both processes agree on: memory, rings, layouts, messages, errors, the status page."""
