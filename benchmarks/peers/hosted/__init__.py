"""The code for the other servers, as their documentation shows it. Runs in their environments.

Environment variables select what to serve: `PEER_MODEL`, `PEER_ENCODING` (`json` or `binary`, for
servers that need it before the first request), `PEER_PORT` and `PEER_WINDOW_US`. JSON is
`{"x": [...]}` -> `{"y": [...]}`, binary is the row's little-endian bytes both ways, except for
Triton, which has a protocol for both.
"""
