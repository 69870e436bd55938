"""The engine in a process of its own: shared memory, rings, messages, and both of their ends."""
