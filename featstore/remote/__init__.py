"""Remote stores: verified on arrival, kept in a local cache, read from there."""
