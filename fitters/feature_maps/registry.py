"""The feature maps by kind: what a saved alignment may contain."""

from __future__ import annotations

from fitters.feature_maps.fourier import FourierMap
from fitters.feature_maps.nystroem import NystroemMap

FeatureMap = NystroemMap | FourierMap
"""Maps rows (n, d) to features (n, r), row by row: so its moments add, merge and stream."""

FEATURE_MAPS: dict[str, type[NystroemMap | FourierMap]] = {
    NystroemMap.kind: NystroemMap,
    FourierMap.kind: FourierMap,
}
