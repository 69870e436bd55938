"""Things to copy: each folder is one model, with what made its weights."""
