"""ImageNet-1k as a label set: 1,000 classes in the order of classification heads; no images."""
