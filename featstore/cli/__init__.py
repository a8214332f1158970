"""Commands on manifests and stores, where `headstock` has them: see `headstock.__main__`."""
