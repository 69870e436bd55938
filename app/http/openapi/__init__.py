"""Generates the OpenAPI document from what the routes declare and from the models served."""
