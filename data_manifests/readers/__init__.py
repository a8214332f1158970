"""What reads a dataset's official layout, by shape: folders, lists, Karpathy's JSON, pixels.

``reader = "lists.food101"`` in a dataset.toml names the function `food101` of the module `lists`
here. A reader takes a `Disk` and returns a `Listing` of its wanted splits.
"""
