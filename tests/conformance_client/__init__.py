"""A client for the official conformance suite, made of the product's own connections to external servers."""
