"""Sets as the files of other tools, and back: npy + Parquet, safetensors, Parquet, HDF5."""
