"""CIFAR-100: see `data_manifests.readers.cifar`."""

from data_manifests.readers.cifar import read_cifar as read

__all__ = ["read"]
