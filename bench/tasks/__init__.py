"""Tasks that score an alignment: arrays in, ranks and pooled numbers out."""
