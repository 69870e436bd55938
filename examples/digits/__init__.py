"""A convolutional classifier of 8x8 digits: its data, its training, its weights."""
