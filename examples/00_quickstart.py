"""From an attention algorithm to a mapping on FuseMax's array, with what the model says of it."""

import penstock

cascade = penstock.parse(
    """
cascade attention(Q[h,p,e], K[h,m,e], V[h,m,f]) -> O[h,p,f]
  const SC = 1 / sqrt(E)
  QK[h,p,m] = Q[h,p,e] * K[h,m,e] * SC
  GM[h,p]   = QK[h,p,m]                :: max[m]
  SN[h,p,m] = exp(QK[h,p,m] - GM[h,p])
  SD[h,p]   = SN[h,p,m]
  A[h,p,m]  = SN[h,p,m] / SD[h,p]
  O[h,p,f]  = A[h,p,m] * V[h,m,f]
"""
)
print(f"passes over the keys: {penstock.count_passes(cascade, 'K', 'm')}")

shapes = {"h": 12, "p": 1024, "m": 1024, "e": 64, "f": 64}
design, search = penstock.explore(cascade, "fusemax", shapes=shapes)
print(design.mapping)
for metric in design.evaluate().metrics():
    print(f"{metric.name:24} {metric.value:>14.6g} {metric.unit:10} ({metric.evidence})")

#: passes over the keys: 3
