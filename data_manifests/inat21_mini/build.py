"""iNaturalist 2021 with the small training set: read as the whole one, from other folders."""

from data_manifests.inat21.build import read

__all__ = ["read"]
