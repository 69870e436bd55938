"""Brim's engine: buckets, batching and the device. It knows no web; see README.md."""
