"""DeepSeek V4 for training: the whole structure, in float32 or under bf16 autocast.

Equations are numbered as in the architecture's specification: E model, H hyper-connections, A and B attention,
C compressors, I indexer, M experts, N the drafting block. Parameters have the names of DeepSeek's checkpoints; only
experts differ: those of a layer are one tensor, `ffn.experts.w1` for all `ffn.experts.E.w1.weight`.

Batches are packed: a row `ids[b]` holds whole documents one after the other, and `start[b, t]` is the index in the row
at which the document of token `t` begins. Documents are kept apart exactly: attention, the windows of compressors and
the drafting block never cross a boundary, and windows are counted from the document's beginning, so that a document
gives the same logits wherever it lies. RoPE uses the index in the row, as only differences of positions matter.

Not simulated: the rounding of cached rows to FP8 and FP4 that the released inference code does.

The indexer only chooses rows, so no gradient of the next token's loss reaches it. It is trained beside, on a few
queries of each step, to give the distribution over compressed rows that attention itself gave them; nothing flows
back from there into the rest. While `index_topk` is no less than the number of rows, it has no effect on the output.
"""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EMBEDDED = 0.25
"""Size of an embedding's elements at first: about that of what a sublayer adds, so that a token stays known."""

# The first weights of induction, chosen so that an untrained `small` looks back with 0.68 of a head's attention.
SHARE_IN_COMMON = 0.7
"""Length of what all embeddings have in common, over that of the rest."""
SHARE_OF_PLACE = 1.5
"""Square of what a key says of its place, over that of what it says of its token."""
FASTEST = 0.1
"""Pairs that turn by more radians than this from one token to the next tell neighbours apart."""
HEARD = 3
"""How much louder than other heads the one that looks back is, so that the next layer hears it."""
ALMOST_NOTHING = 0.02
"""What is left of a head's random queries."""

CSA_RATIO = 4
"""Compression ratio of the layers whose windows overlap and whose rows an indexer chooses."""


@dataclass(frozen=True)
class Config:
    """Sizes, by the names of DeepSeek's `config.json`."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    sliding_window: int
    compress_ratios: tuple[int, ...]
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    n_routed_experts: int
    num_experts_per_tok: int
    n_shared_experts: int
    moe_intermediate_size: int
    num_hash_layers: int
    routed_scaling_factor: float
    swiglu_limit: float
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    rms_norm_eps: float
    rope_theta: float
    compress_rope_theta: float
    rope_scaling: dict
    num_nextn_predict_layers: int

    @staticmethod
    def of(values: dict) -> "Config":
        """Takes what it knows of a `config.json`."""
        known = {f.name: values[f.name] for f in fields(Config)}
        return Config(**known | {"compress_ratios": tuple(known["compress_ratios"])})

    @staticmethod
    def read(path: Path) -> "Config":
        return Config.of(json.loads(path.read_text()))


def frequencies(c: Config, compressed: bool) -> Tensor:
    """Angles per position of the rotated pairs; those of compressed layers are stretched by YaRN."""
    n_rot = c.qk_rope_head_dim
    theta = c.compress_rope_theta if compressed else c.rope_theta
    pair = torch.arange(n_rot // 2, dtype=torch.float64)
    freq = theta ** (-2 * pair / n_rot)
    if not compressed:
        return freq
    s = c.rope_scaling
    bound = [
        n_rot * math.log(s["original_max_position_embeddings"] / (beta * 2 * math.pi)) / (2 * math.log(theta))
        for beta in (s["beta_fast"], s["beta_slow"])
    ]
    low, high = max(math.floor(bound[0]), 0), min(math.ceil(bound[1]), n_rot - 1)
    ramp = ((pair - low) / max(high - low, 1e-3)).clamp(0, 1)
    return freq / s["factor"] * ramp + freq * (1 - ramp)


def pieces(x: Tensor) -> list[slice]:
    """Parts of the rows of `x` that stay in a CPU's cache; on a GPU all rows."""
    size = len(x) if x.is_cuda else max(1, (1 << 17) // x[0].numel())
    return [slice(i, i + size) for i in range(0, len(x), size)]


class Normalize(torch.autograd.Function):
    """`w x / sqrt(mean(x^2) + eps)` over the last dimension, in a third of the passes that autograd makes on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out, scale = torch.empty_like(rows), rows.new_empty(len(rows), 1)
        for piece in pieces(rows):
            square = torch.linalg.vector_norm(rows[piece], dim=1, keepdim=True).square_()
            scale[piece] = (square / rows.shape[1]).add_(eps).rsqrt_()
            torch.mul(rows[piece], scale[piece], out=out[piece]).mul_(weight)
        ctx.save_for_backward(rows, weight, scale)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        rows, weight, scale = ctx.saved_tensors
        g, dx, dweight = grad.reshape(rows.shape), torch.empty_like(rows), torch.zeros_like(weight)
        for piece in pieces(rows):
            product = g[piece] * rows[piece]
            shrink = (product @ weight)[:, None] * scale[piece] ** 3 / -rows.shape[1]
            dweight += scale[piece, 0] @ product
            torch.mul(g[piece], weight, out=dx[piece]).mul_(scale[piece]).addcmul_(rows[piece], shrink)
        return dx.view(grad.shape), dweight, None


class Rotate(torch.autograd.Function):
    """Turns the last elements of vectors, in adjacent pairs, by `turn` [T, n_rot / 2], complex of length 1. (A4, B5)

    `x` is [B, T, ..., width] in float32. One copy and one product in place, where autograd would make eight.
    """

    @staticmethod
    def forward(ctx, x: Tensor, turn: Tensor) -> Tensor:
        ctx.save_for_backward(turn)
        return Rotate.turned(x, turn)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (turn,) = ctx.saved_tensors
        return Rotate.turned(grad, turn.conj()), None

    @staticmethod
    def turned(x: Tensor, turn: Tensor) -> Tensor:
        out = x.clone(memory_format=torch.contiguous_format)
        n_rot = 2 * turn.shape[-1]
        pairs = torch.view_as_complex(out[..., out.shape[-1] - n_rot :].unflatten(-1, (-1, 2)))
        middle = (1,) * (x.dim() - 3)
        pairs.mul_(turn.view(*turn.shape[:-1], *middle, turn.shape[-1]))
        return out


class Sinkhorn(torch.autograd.Function):
    """`logits` [n n, N], source by destination, become matrices whose columns, and nearly rows, sum to 1. (H6 to H8)

    Tokens are the last dimension, and the sums of a step are a product with a constant matrix that leaves each sum in
    all the places that are divided by it: a step is two passes over contiguous numbers, and three backward.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, n: int, n_iter: int, eps: float) -> Tensor:
        sums = Sinkhorn.sums(n, logits)
        soft = logits.view(n, n, -1).softmax(1).view_as(logits)
        small, c, steps = soft.new_full((1,), eps), soft + eps, []
        for i in range(2 * n_iter - 1):
            total = torch.addmm(small, sums[i % 2], c)
            c = c / total
            steps += [c, total]
        ctx.save_for_backward(soft, *steps)
        ctx.n = n
        return c

    @staticmethod
    def backward(ctx, grad: Tensor):
        soft, *steps = ctx.saved_tensors
        sums = Sinkhorn.sums(ctx.n, soft)
        for i in reversed(range(len(steps) // 2)):
            c, total = steps[2 * i : 2 * i + 2]
            grad = torch.addmm(grad, sums[i % 2], grad * c, alpha=-1).div_(total)
        return soft * torch.addmm(grad, sums[1], grad * soft, alpha=-1), None, None, None

    @staticmethod
    def sums(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Matrices [n n, n n] that put the sum of its column, and of its row, in each place."""
        one, ones = torch.eye(n, device=like.device, dtype=like.dtype), like.new_ones(n, n)
        return torch.kron(ones, one), torch.kron(one, ones)


@dataclass
class Windows:
    """The windows of one compression ratio that are complete, in the order of their ends; the rest is filling."""

    tokens: Tensor  # [B, R, ratio], indices into the flattened batch
    first: Tensor  # [B, R], index in the row of the window's first token
    has_previous: Tensor  # [B, R], whether the document has a window before it
    sees: Tensor  # [B, T, R], whether a token may see the window's row

    @staticmethod
    def of(start: Tensor, ratio: int) -> "Windows":
        n_batch, n = start.shape
        place = torch.arange(n, device=start.device)
        pos = place - start
        ends = torch.where((pos + 1) % ratio == 0, place, n).sort(1).values[:, : n // ratio]
        first = (ends - ratio + 1).clamp(max=n - ratio)
        sees = (ends[:, None] <= place[None, :, None]) & (ends[:, None] >= start[:, :, None])
        row = torch.arange(n_batch, device=start.device)[:, None, None] * n
        tokens = row + first[:, :, None] + torch.arange(ratio, device=start.device)
        return Windows(tokens, first, pos.gather(1, first) >= ratio, sees)


class Layout:
    """What a batch's tokens see, made once for all layers. Rows are as long as a multiple of the sliding window.

    Queries are taken in blocks as wide as the window. The keys of a block are those of the block before it and its own,
    then the compressed rows, then one for the sink, and filling up to a multiple of 16.
    """

    def __init__(self, c: Config, start: Tensor):
        n_batch, n = start.shape
        self.width = c.sliding_window
        self.n_block = n // self.width
        query = torch.arange(n, device=start.device).view(-1, self.width, 1)
        key = torch.arange(2 * self.width, device=start.device) + query[:, :1] - self.width
        begin = start.view(n_batch, -1, self.width, 1)
        recent = (key <= query) & (key > query - self.width) & (key >= begin)
        self.windows = {ratio: Windows.of(start, ratio) for ratio in set(c.compress_ratios) if ratio}
        self.bias = {0: self.joined(recent, None)}
        for ratio, w in self.windows.items():
            self.bias[ratio] = self.joined(recent, w.sees)

    def joined(self, recent: Tensor, sees: Tensor | None) -> Tensor:
        """[B, block, query, key]: 0 where a key is seen, else -inf."""
        parts = [recent]
        if sees is not None:
            parts.append(sees.view(*recent.shape[:3], sees.shape[-1]))
        seen = F.pad(torch.cat(parts, -1), (0, 1), value=True)
        seen = F.pad(seen, (0, -seen.shape[-1] % 16), value=False)
        return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -math.inf)


class RMSNorm(nn.Module):
    """`w x / sqrt(mean(x^2) + eps)`."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return Normalize.apply(x.float(), self.weight, self.eps)


def linear(n_in: int, n_out: int) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False)


class Compressor(nn.Module):
    """Pools the tokens of each window to one row. (C1 to C7)"""

    def __init__(self, c: Config, ratio: int, width: int):
        super().__init__()
        self.ratio, self.width = ratio, width
        self.overlaps = ratio == CSA_RATIO
        stored = 2 * width if self.overlaps else width
        self.wkv = linear(c.hidden_size, stored)
        self.wgate = linear(c.hidden_size, stored)
        self.ape = nn.Parameter(torch.zeros(ratio, stored))
        self.norm = RMSNorm(width, c.rms_norm_eps)

    def forward(self, a: Tensor, windows: Windows, turn: Tensor) -> Tensor:
        """Rows [B, R, width] from normalised inputs `a` [B, T, hidden_size]."""
        value = self.by_window(self.wkv(a).float(), windows)
        score = self.by_window(self.wgate(a).float(), windows) + self.ape
        if self.overlaps:
            value = self.with_previous(value)
            score = self.with_previous(score)
            absent = ~windows.has_previous[:, :, None, None] & (torch.arange(8, device=a.device) < 4)[:, None]
            score = score.masked_fill(absent, -math.inf)
        pooled = (score.softmax(2) * value).sum(2)
        return Rotate.apply(self.norm(pooled), turn[windows.first])

    def by_window(self, x: Tensor, windows: Windows) -> Tensor:
        return x.flatten(0, 1).index_select(0, windows.tokens.flatten()).view(*windows.tokens.shape, -1)

    def with_previous(self, x: Tensor) -> Tensor:
        """Eight slots of a window: the first half of the tokens before it, the second half of its own."""
        previous = F.pad(x[:, :-1, :, : self.width], (0, 0, 0, 0, 1, 0))
        return torch.cat([previous, x[..., self.width :]], 2)


class Indexer(nn.Module):
    """Scores compressed rows for each query. (I1 to I8)"""

    def __init__(self, c: Config):
        super().__init__()
        self.n_head, self.width, self.topk = c.index_n_heads, c.index_head_dim, c.index_topk
        self.wq_b = linear(c.q_lora_rank, self.n_head * self.width)
        self.weights_proj = linear(c.hidden_size, self.n_head)
        self.compressor = Compressor(c, CSA_RATIO, self.width)

    def scores(self, a: Tensor, qr: Tensor, rows: Tensor, turn: Tensor) -> Tensor:
        """[B, T, R] for queries with inputs `a` and `qr` [B, T, ...], turned by `turn` [T, ...]."""
        q = Rotate.apply(self.wq_b(qr).float().unflatten(-1, (self.n_head, self.width)), turn)
        weight = self.weights_proj(a).float() * (self.width * self.n_head) ** -0.5
        match = torch.einsum("bthd,brd->bthr", q, rows).relu()
        return torch.einsum("bthr,bth->btr", match, weight)

    def unchosen(self, scores: Tensor, sees: Tensor) -> Tensor:
        """-inf for rows that are not among the best of a query; earlier rows win ties. (I9)"""
        order = scores.masked_fill(~sees, -math.inf).sort(dim=-1, descending=True, stable=True).indices
        bias = torch.full_like(scores, -math.inf)
        return bias.scatter_(-1, order[..., : self.topk], 0.0)


class Attention(nn.Module):
    """A window of recent tokens and compressed older ones; one row is key and value of all heads. (A, B)"""

    def __init__(self, c: Config, ratio: int):
        super().__init__()
        self.c, self.ratio = c, ratio
        n_q = c.num_attention_heads * c.head_dim
        self.wq_a = linear(c.hidden_size, c.q_lora_rank)
        self.q_norm = RMSNorm(c.q_lora_rank, c.rms_norm_eps)
        self.wq_b = linear(c.q_lora_rank, n_q)
        self.wkv = linear(c.hidden_size, c.head_dim)
        self.kv_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.attn_sink = nn.Parameter(torch.zeros(c.num_attention_heads))
        self.wo_a = linear(n_q // c.o_groups, c.o_groups * c.o_lora_rank)
        self.wo_b = linear(c.o_groups * c.o_lora_rank, c.hidden_size)
        if ratio:
            self.compressor = Compressor(c, ratio, c.head_dim)
        if ratio == CSA_RATIO:
            self.indexer = Indexer(c)
        self.freq = frequencies(c, ratio > 0)
        self.turns: dict[tuple, Tensor] = {}
        self.index_loss: Tensor | None = None

    def forward(self, a: Tensor, layout: Layout, index_stride: int) -> Tensor:
        """`index_stride`: train the indexer on one query in as many; 0 for not at all."""
        c, self.index_loss = self.c, None
        turn = self.turn(a.shape[1], a.device)
        qr = self.q_norm(self.wq_a(a))
        q = self.wq_b(qr).float().unflatten(-1, (c.num_attention_heads, c.head_dim))
        q = Rotate.apply(Normalize.apply(q, q.new_ones(c.head_dim), c.rms_norm_eps), turn)
        kv = Rotate.apply(self.kv_norm(self.wkv(a)), turn)
        windows, rows, bias = layout.windows.get(self.ratio), None, layout.bias[self.ratio]
        if windows is not None and windows.first.shape[1]:
            rows = self.compressor(a, windows, turn)
            if self.ratio == CSA_RATIO and rows.shape[1] > self.indexer.topk:
                bias = self.with_choice(bias, a, qr, windows, turn)
        met = Met.of(q, kv, rows, self.attn_sink, layout)
        out = met.attended(bias)
        if index_stride and self.ratio == CSA_RATIO and rows is not None:
            given = met.given_rows(bias, index_stride, layout, rows.shape[1])
            self.index_loss = self.imitation(a, qr, given, windows, turn, index_stride)
        out = Rotate.apply(out.float(), turn.conj())
        groups = out.flatten(2).unflatten(-1, (c.o_groups, -1))
        low = torch.einsum("btgi,goi->btgo", groups, self.wo_a.weight.unflatten(0, (c.o_groups, -1)))
        return self.wo_b(low.flatten(2))

    def turn(self, n: int, device: torch.device) -> Tensor:
        """`exp(i position angle)` for all positions of a row."""
        key = (n, device)
        if key not in self.turns:
            angle = torch.arange(n, dtype=torch.float64)[:, None] * self.freq
            self.turns[key] = torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(device)
        return self.turns[key]

    @torch.no_grad()
    def with_choice(self, bias: Tensor, a: Tensor, qr: Tensor, windows: Windows, turn: Tensor) -> Tensor:
        """Hides the compressed rows that the indexer leaves out."""
        rows = self.indexer.compressor(a, windows, turn)
        hidden = self.indexer.unchosen(self.indexer.scores(a, qr, rows, turn), windows.sees)
        first = 2 * self.c.sliding_window
        bias = bias.clone()
        bias[..., first : first + rows.shape[1]] += hidden.view(*bias.shape[:3], -1)
        return bias

    def imitation(self, a: Tensor, qr: Tensor, given: Tensor, windows: Windows, turn: Tensor, stride: int) -> Tensor:
        """How far the indexer's distribution over rows is from attention's, in nats, over some queries.

        `given` [B, T / stride, R] is the weight that attention gave the rows, all heads together."""
        some = slice(stride - 1, None, stride)
        a, qr, sees = a.detach(), qr.detach(), windows.sees[:, some]
        rows = self.indexer.compressor(a, windows, turn)
        scores = self.indexer.scores(a[:, some], qr[:, some], rows, turn[some])
        target = given / given.sum(-1, keepdim=True).clamp(min=1e-9)
        found = scores.masked_fill(~sees, -1e9).log_softmax(-1)
        lost = (target * (target.clamp(min=1e-9).log() - found)).sum(-1)
        counts = sees.sum(-1) > 1
        return (lost * counts).sum() / counts.sum().clamp(min=1)


SINK_WIDTH = 8
"""Elements behind each head's own, in the first of which the sink's key meets each query."""


@dataclass
class Met:
    """Queries, keys and values of all blocks, with the sink as a key of its own.

    A sink is a logit per head that has no value (B2, B3). As keys are shared by all heads, it is put into the queries:
    they have it in an element in which only the sink's key has 1.
    """

    q: Tensor  # [B block, head, query, width]
    k: Tensor  # [B block, 1, key, width]
    v: Tensor  # the same, without the sink's 1
    scale: float

    @staticmethod
    def of(q: Tensor, kv: Tensor, rows: Tensor | None, sink: Tensor, layout: Layout) -> "Met":
        """From `q` [B, T, H, D], recent tokens `kv` [B, T, D] and compressed `rows` [B, R, D]."""
        n_batch, n, n_head, dim = q.shape
        own = kv.view(n_batch, layout.n_block, layout.width, dim)
        keys = [F.pad(own, (0, 0, 0, 0, 1, 0))[:, :-1], own]
        if rows is not None:
            keys.append(rows[:, None].expand(-1, layout.n_block, -1, -1))
        v = torch.cat(keys, 2)
        at, more = v.shape[2], -(v.shape[2] + 1) % 16
        v = F.pad(v, (0, SINK_WIDTH, 0, 1 + more)).flatten(0, 1)[:, None]
        mark = torch.zeros(v.shape[2:], device=v.device, dtype=v.dtype)
        mark[at, dim] = 1
        meets_sink = F.pad((sink * dim**0.5)[:, None], (0, SINK_WIDTH - 1)).to(q.dtype)
        q = torch.cat([q, meets_sink.expand(n_batch, n, n_head, -1)], -1)
        q = q.view(-1, layout.width, n_head, dim + SINK_WIDTH).transpose(1, 2)
        return Met(q, v + mark, v, dim**-0.5)

    def attended(self, bias: Tensor) -> Tensor:
        """[B, T, H, D]. (B1 to B4)"""
        n_head = self.q.shape[1]
        k, v = (x.expand(-1, n_head, -1, -1) for x in (self.k, self.v))
        with torch.autocast("cpu", enabled=False):  # in bfloat16 a CPU takes longer
            out = F.scaled_dot_product_attention(self.q, k, v, bias.flatten(0, 1)[:, None], scale=self.scale)
        return out.transpose(1, 2)[..., :-SINK_WIDTH].unflatten(0, bias.shape[:2]).flatten(1, 2)

    @torch.no_grad()
    def given_rows(self, bias: Tensor, stride: int, layout: Layout, n_row: int) -> Tensor:
        """The weight that one query in `stride` gives the compressed rows, summed over heads."""
        some = slice(stride - 1, None, stride)
        scores = self.q[:, :, some].float() @ self.k.float().mT * self.scale + bias.flatten(0, 1)[:, None, some]
        first = 2 * layout.width
        given = scores.softmax(-1)[..., first : first + n_row].sum(1)
        return given.unflatten(0, bias.shape[:2]).flatten(1, 2)


def swiglu(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """The gate is clamped from above only. (M5)"""
    return F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)


class Gate(nn.Module):
    """Chooses experts: by token id in the first layers, else by score plus a bias that no weight sees. (M1 to M4)"""

    def __init__(self, c: Config, hashed: bool):
        super().__init__()
        self.c = c
        self.weight = nn.Parameter(torch.empty(c.n_routed_experts, c.hidden_size))
        if hashed:
            table = (torch.arange(c.vocab_size)[:, None] + torch.arange(c.num_experts_per_tok)) % c.n_routed_experts
            self.register_buffer("tid2eid", table)
        else:
            self.register_buffer("bias", torch.zeros(c.n_routed_experts))

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Experts [N, used] and their weights, for inputs [N, hidden_size]."""
        with torch.autocast(x.device.type, enabled=False):
            score = F.softplus(F.linear(x.float(), self.weight)).sqrt()
        chosen = self.tid2eid[ids] if hasattr(self, "tid2eid") else self.best(score)
        weight = score.gather(1, chosen)
        return chosen, weight / weight.sum(1, keepdim=True) * self.c.routed_scaling_factor

    @torch.no_grad()
    def best(self, score: Tensor) -> Tensor:
        return (score + self.bias).topk(self.c.num_experts_per_tok, 1).indices


class Experts(nn.Module):
    """The routed experts of a layer, each matrix [expert, out, in]."""

    def __init__(self, c: Config):
        super().__init__()
        n, width, hidden = c.n_routed_experts, c.moe_intermediate_size, c.hidden_size
        self.limit = c.swiglu_limit
        self.w1 = nn.Parameter(torch.empty(n, width, hidden))
        self.w3 = nn.Parameter(torch.empty(n, width, hidden))
        self.w2 = nn.Parameter(torch.empty(n, hidden, width))

    @staticmethod
    def groups(x: Tensor) -> bool:
        """Whether all experts' products are one operation."""
        return x.is_cuda

    def forward(self, x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        """Inputs are sorted by expert. On a GPU groups begin at multiples of 16, and filling is 0."""
        n, n_used = chosen.shape
        align = 16 if Experts.groups(x) else 1
        flat = chosen.flatten()
        count = torch.bincount(flat, minlength=len(self.w1))
        ends = ((count + align - 1) // align * align).cumsum(0)
        order = flat.argsort(stable=True)
        begin_sorted, begin = count.cumsum(0) - count, ends - (count + align - 1) // align * align
        place = torch.empty_like(order)
        at = torch.arange(len(flat), device=x.device)
        place[order] = at + (begin - begin_sorted)[flat[order]]
        if align == 1:
            sorted_x, sorted_weight = x[order // n_used], weight.flatten()[order]
        else:
            room = len(flat) + align * len(self.w1)
            sorted_x = x.new_zeros(room, x.shape[1]).index_copy(0, place, x.repeat_interleave(n_used, 0))
            sorted_weight = weight.new_zeros(room).index_copy(0, place, weight.flatten())
        hidden = swiglu(grouped(sorted_x, self.w1, ends), grouped(sorted_x, self.w3, ends), self.limit)
        out = grouped(hidden * sorted_weight[:, None].to(hidden.dtype), self.w2, ends)
        return out[place].view(n, n_used, -1).float().sum(1)


def grouped(x: Tensor, w: Tensor, ends: Tensor) -> Tensor:
    """Rows up to `ends[0]` times `w[0]^T`, those up to `ends[1]` times `w[1]^T`, and so on."""
    if Experts.groups(x):
        return F.grouped_mm(x.bfloat16(), w.bfloat16().transpose(1, 2), offs=ends.int())
    sizes = ends.diff(prepend=ends.new_zeros(1)).tolist()
    return torch.cat([F.linear(part, one) for part, one in zip(x.split(sizes), w)])


class SharedExpert(nn.Module):
    """The expert that every token uses. (M6)"""

    def __init__(self, c: Config):
        super().__init__()
        width = c.moe_intermediate_size * c.n_shared_experts
        self.limit = c.swiglu_limit
        self.w1, self.w3 = linear(c.hidden_size, width), linear(c.hidden_size, width)
        self.w2 = linear(width, c.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(swiglu(self.w1(x), self.w3(x), self.limit))


class MoE(nn.Module):
    """Routed experts and the shared one."""

    def __init__(self, c: Config, hashed: bool):
        super().__init__()
        self.gate = Gate(c, hashed)
        self.experts = Experts(c)
        self.shared_experts = SharedExpert(c)
        self.chosen: Tensor | None = None

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        self.chosen, weight = self.gate(flat, ids.flatten())
        out = self.experts(flat, self.chosen, weight)
        return out.view_as(x) + self.shared_experts(x)


class HyperMix(torch.autograd.Function):
    """`W u / rms(u)` for the streams `x` [N, n, d] as one vector `u`; and `x` again. (H1, H2)

    This, `HyperRead` and `HyperWrite` pass the streams on, so that backward a single gradient of them goes from one to
    the next, each adding its part in place, piece by piece. Left to autograd, streams and gradients, which are most of
    the memory, would go to and from it four times as often.
    """

    @staticmethod
    def forward(ctx, x: Tensor, fn: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        u = x.flatten(1)
        product, square = u.new_empty(len(u), len(fn)), u.new_empty(len(u), 1)
        for piece in pieces(u):
            torch.mm(u[piece], fn.t(), out=product[piece])
            square[piece] = torch.linalg.vector_norm(u[piece], dim=1, keepdim=True).square_()
        scale = (square / u.shape[1] + eps).rsqrt_()
        ctx.save_for_backward(x, fn, product, scale)
        return x.view_as(x), product * scale

    @staticmethod
    def backward(ctx, dx: Tensor, grad: Tensor):
        x, fn, product, scale = ctx.saved_tensors
        u, du, dfn = x.flatten(1), dx.flatten(1), torch.zeros_like(fn)
        dproduct = grad * scale
        shrink = (grad * product).sum(1, keepdim=True) * scale**3 / -u.shape[1]
        for piece in pieces(u):
            du[piece].addmm_(dproduct[piece], fn).addcmul_(u[piece], shrink[piece])
            dfn.addmm_(dproduct[piece].t(), u[piece])
        return du.view_as(x), dfn, None


class HyperRead(torch.autograd.Function):
    """`sum_h pre[h] X[h]` for `x` [N, n, d] and `pre` [N, n]; and `x` again. (H9)"""

    @staticmethod
    def forward(ctx, x: Tensor, pre: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, pre)
        y = x.new_empty(len(x), 1, x.shape[2])
        for piece in pieces(x):
            torch.bmm(pre[piece, None], x[piece], out=y[piece])
        return x.view_as(x), y.squeeze(1)

    @staticmethod
    def backward(ctx, dx: Tensor, dy: Tensor):
        x, pre = ctx.saved_tensors
        dpre = torch.empty_like(pre)
        for piece in pieces(x):
            dx[piece].addcmul_(pre[piece, :, None], dy[piece, None])
            torch.bmm(x[piece], dy[piece, :, None], out=dpre[piece, :, None])
        return dx, dpre


class HyperWrite(torch.autograd.Function):
    """`X[k] = post[k] f + sum_j C[k, j] X[j]` for `x` [N, n, d], `f` [N, d], `post` [N, n], `comb` [N, n, n]. (H10)"""

    @staticmethod
    def forward(ctx, x: Tensor, f: Tensor, post: Tensor, comb: Tensor) -> Tensor:
        ctx.save_for_backward(x, f, post, comb)
        out = torch.empty_like(x)
        for piece in pieces(x):
            torch.bmm(comb[piece], x[piece], out=out[piece])
            out[piece].addcmul_(post[piece, :, None], f[piece, None])
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, f, post, comb = ctx.saved_tensors
        grad = grad.contiguous()
        dx, df, dpost, dcomb = (torch.empty_like(t) for t in (x, f, post, comb))
        for piece in pieces(x):
            torch.bmm(comb[piece].mT, grad[piece], out=dx[piece])
            torch.bmm(post[piece, None], grad[piece], out=df[piece, None])
            torch.bmm(grad[piece], x[piece].mT, out=dcomb[piece])
            torch.bmm(grad[piece], f[piece, :, None], out=dpost[piece, :, None])
        return dx, df, dpost, dcomb


class Block(nn.Module):
    """A layer: attention and experts, each met by the four streams through hyper-connections."""

    def __init__(self, c: Config, ratio: int, hashed: bool):
        super().__init__()
        self.c = c
        n = c.hc_mult
        self.attn_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.attn = Attention(c, ratio)
        self.ffn_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.ffn = MoE(c, hashed)
        which = torch.tensor([0] * n + [1] * n + [2] * n * n)
        self.register_buffer("scale_of_mix", which, persistent=False)
        for part in ("attn", "ffn"):
            self.register_parameter(f"hc_{part}_fn", nn.Parameter(torch.empty((2 + n) * n, n * c.hidden_size)))
            self.register_parameter(f"hc_{part}_base", nn.Parameter(torch.empty((2 + n) * n)))
            self.register_parameter(f"hc_{part}_scale", nn.Parameter(torch.empty(3)))

    def forward(self, x: Tensor, ids: Tensor, layout: Layout, index_stride: int = 0) -> Tensor:
        x = self.connected("attn", x, lambda y: self.attn(self.attn_norm(y), layout, index_stride))
        return self.connected("ffn", x, lambda y: self.ffn(self.ffn_norm(y), ids))

    def connected(self, part: str, x: Tensor, f) -> Tensor:
        """`X[k] = post[k] f(sum_h pre[h] X[h]) + sum_j C[j, k] X[j]`, in float32. (H3 to H10)"""
        c, n = self.c, self.c.hc_mult
        fn, base, scale = (getattr(self, f"hc_{part}_{name}") for name in ("fn", "base", "scale"))
        with torch.autocast(x.device.type, enabled=False):
            streams, mix = HyperMix.apply(x.flatten(0, 1), fn, c.rms_norm_eps)
            mix = mix * scale[self.scale_of_mix] + base
            pre = mix[:, :n].sigmoid() + c.hc_eps
            post = 2 * mix[:, n : 2 * n].sigmoid()
            comb = Sinkhorn.apply(mix[:, 2 * n :].t().contiguous(), n, c.hc_sinkhorn_iters, c.hc_eps)
            streams, y = HyperRead.apply(streams, pre)
        out = f(y.view(*x.shape[:2], -1)).float()
        with torch.autocast(x.device.type, enabled=False):
            turned = comb.view(n, n, -1).permute(2, 1, 0).contiguous()
            return HyperWrite.apply(streams, out.flatten(0, 1), post, turned).view_as(x)


def add_head(m: nn.Module, c: Config) -> None:
    """Gives a module what turns streams into the vector that logits are made of."""
    m.hc_head_fn = nn.Parameter(torch.empty(c.hc_mult, c.hc_mult * c.hidden_size))
    m.hc_head_base = nn.Parameter(torch.empty(c.hc_mult))
    m.hc_head_scale = nn.Parameter(torch.empty(1))
    m.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


def head(m: nn.Module, x: Tensor, c: Config) -> Tensor:
    """Streams [B, T, n, d] become one normalised vector. (E10, E11)"""
    with torch.autocast(x.device.type, enabled=False):
        streams, mix = HyperMix.apply(x.flatten(0, 1), m.hc_head_fn, c.rms_norm_eps)
        pre = (mix * m.hc_head_scale + m.hc_head_base).sigmoid() + c.hc_eps
        return m.norm(HyperRead.apply(streams, pre)[1].view(*x.shape[:2], -1))


class Drafter(Block):
    """The MTP block: from the streams of a token and the one after it to the one after that. (N1 to N4)"""

    def __init__(self, c: Config):
        super().__init__(c, 0, False)
        self.enorm, self.hnorm = RMSNorm(c.hidden_size, c.rms_norm_eps), RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.e_proj, self.h_proj = linear(c.hidden_size, c.hidden_size), linear(c.hidden_size, c.hidden_size)
        add_head(self, c)

    def draft(self, x: Tensor, after: Tensor, embedded: Tensor, layout: Layout) -> Tensor:
        """Vectors for logits, from the trunk's streams `x` and the ids `after` of the next tokens, `embedded`."""
        joined = self.e_proj(self.enorm(embedded))[:, :, None] + self.h_proj(self.hnorm(x))
        return head(self, self(joined.float(), after, layout), self.c)


@dataclass
class Losses:
    """Sums over the tokens that are to be learned, in nats, and how many these are."""

    next: Tensor
    n_next: Tensor
    draft: Tensor
    n_draft: Tensor
    index: Tensor  # a mean already


class Model(nn.Module):
    """The whole model."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        hashed = [i < c.num_hash_layers for i in range(c.num_hidden_layers)]
        self.layers = nn.ModuleList(Block(c, ratio, h) for ratio, h in zip(c.compress_ratios, hashed))
        add_head(self, c)
        self.head = linear(c.hidden_size, c.vocab_size)
        self.mtp = nn.ModuleList(Drafter(c) for _ in range(c.num_nextn_predict_layers))

    def initialize(self, seed: int) -> "Model":
        """Fills the parameters: matrices so that widths keep their size, outputs of sublayers small, streams apart."""
        g = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            part = name.rsplit(".", 2)[-1] if "hc_" in name else name
            if "hc_" in part:
                self.initialize_hyper(name, part, p, g)
            elif p.dim() > 1 and not name.endswith("ape"):
                std = dict(embed=EMBEDDED, head=0.02).get(name.split(".")[0], p.shape[-1] ** -0.5)
                if name.endswith(("wo_b.weight", "w2", "w2.weight")):
                    std *= 0.2
                nn.init.normal_(p, std=std, generator=g)
        self.initialize_induction(g)
        return self

    @torch.no_grad()
    def initialize_induction(self, g: torch.Generator) -> None:
        """Makes the two heads that copying takes, roughly; training finds them late, as neither helps alone.

        The first head of the first layer looks one place back; that of the second looks for what followed its own
        token before. (Olsson et al. 2022; first weights that are like trained ones: Trockman and Kolter 2023) All
        embeddings get a vector in common, by which queries and keys can mean a place whatever the token. The other
        heads, and what is made of what the two find, are left to training.
        """
        c = self.c
        common = (torch.randint(2, (c.hidden_size,), generator=g) * 2 - 1).float() / c.hidden_size**0.5
        self.embed.weight += common * (SHARE_IN_COMMON * EMBEDDED * c.hidden_size**0.5)
        aside = torch.eye(c.hidden_size) - torch.outer(common, common)
        told = self.initialize_look_back(self.layers[0].attn, common, aside)
        found = self.layers[0].attn.wkv.weight[: told.shape[1]]
        self.initialize_match(self.layers[1].attn, found, told, aside, g)

    def initialize_look_back(self, attn: Attention, common: Tensor, aside: Tensor) -> Tensor:
        """Has the first head look one place back. Gives what it writes to the streams, [hidden_size, unrotated].

        Keys hold a constant in their fastest pairs, which RoPE turns by their place; the query has it turned back by
        one. As keys are values too, the unrotated elements are left to the token, and do not see what is common.
        """
        c, n_plain = self.c, self.c.head_dim - self.c.qk_rope_head_dim
        freq = attn.freq.float()
        place = torch.where(freq > FASTEST, freq.sqrt(), 0.0)
        place *= (SHARE_OF_PLACE * n_plain) ** 0.5 / place.norm()
        length = c.hidden_size**0.5  # of an input, as it comes normalised
        met = length * SHARE_IN_COMMON / (1 + SHARE_IN_COMMON**2) ** 0.5  # its product with `common`
        attn.wkv.weight[n_plain:] *= 0.1
        attn.wkv.weight[n_plain::2] += torch.outer(place, common) / met
        attn.wkv.weight[:n_plain] = attn.wkv.weight[:n_plain] @ aside
        back = torch.stack([freq.cos(), -freq.sin()], 1) * place[:, None]
        asks = attn.wq_a.weight @ common
        attn.wq_b.weight[: c.head_dim] *= ALMOST_NOTHING
        attn.wq_b.weight[n_plain : c.head_dim] += torch.outer(back.flatten(), asks / asks.norm())
        attn.wo_a.weight[: c.o_lora_rank, :n_plain] *= HEARD
        return attn.wo_b.weight[:, : c.o_lora_rank] @ attn.wo_a.weight[: c.o_lora_rank, :n_plain]

    def initialize_match(self, attn: Attention, found: Tensor, told: Tensor, aside: Tensor, g: torch.Generator) -> None:
        """Has the first head compare its own token, as `found` [unrotated, hidden_size] reads it, with the one before
        each key, as `told` by the first layer."""
        c, n_plain = self.c, len(found)
        reads = torch.linalg.pinv(told) @ aside
        attn.wkv.weight[:n_plain] = reads / reads.norm(dim=1).mean()
        nn.init.orthogonal_(attn.wq_a.weight, generator=g)
        attn.wq_b.weight[: c.head_dim] *= ALMOST_NOTHING
        attn.wq_b.weight[:n_plain] = found @ attn.wq_a.weight.T

    def initialize_hyper(self, name: str, part: str, p: Tensor, g: torch.Generator) -> None:
        """At first a layer reads a mean that leans on one stream, adds to all alike, and hardly mixes them."""
        n = self.c.hc_mult
        layer = int(name.split(".")[1]) if "." in name else 0
        with torch.no_grad():
            if part.endswith("scale"):
                p.fill_(0.1)
            elif part.endswith("fn"):
                p.normal_(std=p.shape[-1] ** -0.5, generator=g)
            else:
                p.zero_()
                p[:n] = -1.1
                p[layer % n] = 0.5
                if len(p) > n:
                    p[2 * n :] = (4 * torch.eye(n)).flatten()

    def forward(self, ids: Tensor, start: Tensor | None = None) -> Tensor:
        """Logits [B, T, vocab_size] of any length; `start` is 0 everywhere unless given."""
        n = ids.shape[1]
        ids, start = self.filled(ids, torch.zeros_like(ids) if start is None else start)
        return self.head(head(self, self.trunk(ids, Layout(self.c, start)), self.c))[:, :n].float()

    def filled(self, ids: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Fills rows up to a multiple of the window with documents of one token."""
        n = ids.shape[1]
        more = -n % self.c.sliding_window
        alone = torch.arange(n, n + more, device=ids.device).expand(len(ids), more)
        return F.pad(ids, (0, more)), torch.cat([start, alone], 1)

    def trunk(self, ids: Tensor, layout: Layout, index_stride: int = 0) -> Tensor:
        """The streams [B, T, n, d] after the last layer. (E1 to E9)"""
        x = self.embed(ids)[:, :, None].expand(-1, -1, self.c.hc_mult, -1).contiguous()
        for layer in self.layers:
            x = layer(x, ids, layout, index_stride)
        return x

    def losses(self, ids: Tensor, start: Tensor, learned: Tensor, drafts: bool, index_stride: int) -> Losses:
        """Losses of predicting those tokens that are `learned`, from the others of their documents."""
        layout = Layout(self.c, start)
        x = self.trunk(ids, layout, index_stride)
        zero = x.new_zeros(())
        index = [l.attn.index_loss for l in self.layers if l.attn.index_loss is not None]
        n, total = self.cross_entropy(head(self, x, self.c), ids, start, learned, 1)
        draft, n_draft = zero, zero
        if drafts and self.mtp:
            after = ids.roll(-1, 1)
            n_draft, draft = self.cross_entropy(
                self.mtp[0].draft(x, after, self.embed(after), layout), ids, start, learned, 2
            )
        return Losses(total, n, draft, n_draft, torch.stack(index).sum() if index else zero)

    def cross_entropy(self, y: Tensor, ids: Tensor, start: Tensor, learned: Tensor, ahead: int):
        """The number of learned tokens that are `ahead` of one of their document, and their loss."""
        keep = learned[:, ahead:] & (start[:, ahead:] == start[:, :-ahead])
        logits = self.head(y[:, :-ahead][keep]).float()
        return keep.sum(), F.cross_entropy(logits, ids[:, ahead:][keep], reduction="sum")
