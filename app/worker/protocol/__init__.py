"""HTTP/1: bytes, requests, answers. No sockets are opened and nothing waits here."""
