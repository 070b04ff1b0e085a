"""The same language from Python: operators build the same objects as the text does."""

import penstock

p, m, e, f = penstock.ranks("p m e f")
c = penstock.Builder("attention", p=128, m=128, e=64, f=64)
c.QK[p, m] = c.Q[p, e] * c.K[m, e]  # a variable missing on the left is summed
c.GM[p] = penstock.reduce_max(c.QK[p, m])
c.SN[p, m] = penstock.exp(c.QK[p, m] - c.GM[p])
c.SD[p] = c.SN[p, m]
c.AV[p, f] = c.SN[p, m] * c.V[m, f] / c.SD[p]
attention = c.build()

print(attention)
print("the text reads back as an equal object:", penstock.parse(str(attention)) == attention)

#: cascade attention(Q[p, e], K[m, e], V[m, f]) -> AV[p, f]
#:   shape e = 64
#:   shape f = 64
#:   shape m = 128
#:   shape p = 128
#:   QK[p, m] = Q[p, e] * K[m, e] :: sum[e]
#:   GM[p] = QK[p, m] :: max[m]
#:   SN[p, m] = exp(QK[p, m] - GM[p])
#:   SD[p] = SN[p, m] :: sum[m]
#:   AV[p, f] = SN[p, m] * V[m, f] / SD[p] :: sum[m]
#: the text reads back as an equal object: True
