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
    print(metric)

#: passes over the keys: 3
#: mapping explored for attention on fusemax
#: for h
#:   keep K, V in gb x2
#:   for p by 512 pipelined
#:     keep QK, GM in rf2d
#:     keep SN, A in gb
#:     keep SD in rf1d
#:     keep Q in gb x2
#:     QK on pe2d: p by 256, m by 256, p@cols, m@rows, e
#:     GM on pe2d: p by 256, p@cols, m by 256, m@rows
#:     SN on pe2d: p by 256, m by 256, p@cols, m@rows
#:     SD on pe2d: p by 256, p@cols, m by 256, m@rows
#:     A on pe1d stage 1: p by 256, m, p@lanes
#:     O on pe2d stage 2: p by 256, f, p@cols, m by 256, m@rows
#: latency 49,152 cycles (model)
#: latency_s 52.29 µs (model)
#: dram_bytes 6.291 MB (model)
#: energy 86.46 mJ (model)
#: utilisation_pe2d 78.5 % of PEs (model)
#: utilisation_pe1d 100.0 % of PEs (model)
#: busy_pe2d 78.5 % of cycles (model)
#: busy_pe1d 100.0 % of cycles (model)
#: initiation_interval 2,048 cycles (model)
#: occupancy_dram 6.291 MB (model)
#: occupancy_gb 4.85 MB (model)
#: occupancy_rf2d 20 B (model)
#: occupancy_rf1d 8 B (model)
