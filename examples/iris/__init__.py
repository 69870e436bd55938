"""A model of one's own: a Flax module, its checkpoint, a config."""
