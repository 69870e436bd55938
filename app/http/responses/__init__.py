"""The declarations of the routes, and the responses of inference requests."""
