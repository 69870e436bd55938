"""From a directory's tokenizer to token ids."""
