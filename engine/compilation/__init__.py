"""Programs and buckets become executables."""
