"""Commands on results, where `headstock` has them: see `headstock.__main__`."""
