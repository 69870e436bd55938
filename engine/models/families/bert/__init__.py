"""BERT-type sentence encoders, as directories that the sentence-transformers library writes."""
