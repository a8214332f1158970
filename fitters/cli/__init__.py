"""Commands on alignments, where `headstock` has them: see `headstock.__main__`."""
