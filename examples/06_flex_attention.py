"""Import FlexAttention functions as they are, look at the cascade, and compare with PyTorch."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import and_masks
from torch.nn.functional import scaled_dot_product_attention

import penstock
from penstock.importers.flex import from_flex

heads, length, width = 4, 100, 32
slopes = torch.exp2(-torch.arange(1, heads + 1) * 8.0 / heads).double()
doc = torch.arange(length) // 40


def alibi(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score - slopes[h] * (q_idx - kv_idx)


def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


def same_document(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return doc[q_idx] == doc[kv_idx]


cascade, captured = from_flex(alibi, and_masks(causal, same_document))
print(cascade)

generator = torch.Generator().manual_seed(0)
q, k, v = (
    torch.randn(1, heads, length, width, generator=generator, dtype=torch.float64) for _ in "qkv"
)
ours = penstock.run(cascade, {"Q": q.numpy(), "K": k.numpy(), "V": v.numpy(), **captured})["O"]

at = torch.arange(length)
seen = (at[:, None] >= at) & (doc[:, None] == doc)
bias = -slopes[:, None, None] * (at[:, None] - at)
expected = scaled_dot_product_attention(q, k, v, bias.masked_fill(~seen, -torch.inf)).numpy()
print("agrees with PyTorch:", np.allclose(ours, expected, rtol=0, atol=1e-13))

#: cascade flex_attention(Q[b, h, p, e], K[b, h, m, e], V[b, h, m, f], DOC[doc_0], SLOPES[slopes_...
#:   const SC = 1 / sqrt(E)
#:   QS[b, h, p, e] = Q[b, h, p, e] * SC
#:   QK[b, h, p, m] = QS[b, h, p, e] * K[b, h, m, e] :: sum[e] s.t. p >= m and DOC[p] == DOC[m]
#:   S[b, h, p, m] = QK[b, h, p, m] - SLOPES[h] * (p - m)
#:   GM[b, h, p] = S[b, h, p, m] :: max[m]
#:   SN[b, h, p, m] = exp(S[b, h, p, m] - GM[b, h, p])
#:   SD[b, h, p] = SN[b, h, p, m] :: sum[m]
#:   A[b, h, p, m] = SN[b, h, p, m] / SD[b, h, p]
#:   O[b, h, p, f] = A[b, h, p, m] * V[b, h, m, f] :: sum[m]
#: agrees with PyTorch: True
