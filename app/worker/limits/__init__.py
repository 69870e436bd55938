"""What a connection waits for, how long, and how much it may hold."""
