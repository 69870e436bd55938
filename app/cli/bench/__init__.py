"""The load generator, `brim bench`: a client, which shares no code with the server."""
