"""The Flask app: routes, codecs, errors and the OpenAPI document."""
