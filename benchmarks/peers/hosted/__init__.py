"""The other servers' own code, each as its documentation has it. Runs in their environments only.

What to serve comes in the environment: `PEER_MODEL`, `PEER_ENCODING` (`json` or `binary`), where a
server must know it before a request comes, `PEER_PORT`, and `PEER_WINDOW_US`. JSON is
`{"x": [...]}` -> `{"y": [...]}` and binary is the row's little-endian bytes both ways, except for
Triton, which has a protocol for both.
"""
