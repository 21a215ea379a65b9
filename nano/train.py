"""Trains the model; a run that was cut goes on where it was, with as many processes and threads bit for bit on a CPU.

    python train.py --config configs/small.json --data work/data --tokenizer work/tokenizer --out work/run --tokens 60e6

The learning rate rises in a warm-up, stays, and falls in a line to nothing over the last share `decay` of `--tokens`,
when of each kind of document only a share is taken, `fall_shares`: what the model should be best at comes last.
It is a function of the tokens seen, not of time: a run cut by `--minutes` or by the machine is continued by the same
command, and until the fall begins `--tokens` may still be changed. Several processes may share each step; on several
GPUs that is not yet tried:

    torchrun --nproc-per-node 2 train.py --threads 1 ...

In `--out`:

    checkpoint.pt   everything, every few minutes and at the end; the one before it is previous.pt
    log.jsonl       a line per start (machine, settings, hashes), per few steps, and per evaluation

Matrices that map vectors to vectors are trained with Muon (momentum, made orthogonal by five Newton-Schulz steps and
scaled to the size of AdamW's updates), all else with AdamW. No loss balances experts: after each step the selection
bias of an expert that had less than the mean load rises a little, and that of the others falls. A GPU multiplies
matrices in bfloat16, and so does a CPU if asked by `--bfloat16`, which pays where it has instructions for that (AVX-512
BF16); parameters and their sums stay in float32.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data import CONTEXT, Batch, Packing, Split
from model import Config, Layout, Model, head

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial that brings all singular values near 1 in five steps (Jordan et al. 2024)."""


class Team:
    """The processes that share a run. Each computes some parts of a batch and some of Muon's products; all have the
    same model to the bit, as they add the same sums to it. The first writes what is written."""

    def __init__(self):
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group()

    def share(self, parts):
        return parts[self.rank :: self.size]

    def add(self, tensors: list[Tensor]) -> None:
        """Makes each tensor the sum of all processes' tensors in its place."""
        if self.size == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for t, total in zip(tensors, flat.split([t.numel() for t in tensors])):
            t.copy_(total.view_as(t))

    def first_says(self, yes: bool, device: torch.device) -> bool:
        """What the first process says, on all of them."""
        said = torch.tensor([float(yes and self.rank == 0)], device=device)
        self.add([said])
        return bool(said.item())


class Muon(torch.optim.Optimizer):
    """`w -= lr (0.2 sqrt(max(n_out, n_in)) orthogonal(momentum) + decay w)` for the matrices in each parameter."""

    def __init__(self, params: list[nn.Parameter], decay: float, team: Team, dtype: torch.dtype):
        super().__init__(params, dict(lr=0.0, decay=decay))
        self.team, self.dtype = team, dtype

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape[-2:], []).append(p)
            for same in by_shape.values():
                self.step_together(same, group["lr"], group["decay"])

    def step_together(self, params: list[nn.Parameter], lr: float, decay: float) -> None:
        """Parameters whose matrices have one shape are one batch of products."""
        shape = params[0].shape[-2:]
        directions = []
        for p in params:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            directions.append(p.grad.lerp(momentum, MOMENTUM).reshape(-1, *shape))
        stack = torch.cat(directions)
        update = torch.zeros_like(stack)
        self.team.share(update).copy_(orthogonal(self.team.share(stack), self.dtype))
        self.team.add([update])
        update *= 0.2 * math.sqrt(max(shape))
        for p, part in zip(params, update.split([len(d) for d in directions])):
            p.mul_(1 - lr * decay).add_(part.view_as(p), alpha=-lr)


def orthogonal(g: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest matrices with equal singular values, roughly; on a CPU as many at a time as stay in its cache."""
    at_once = len(g) if g.is_cuda else 8
    return torch.cat([newton_schulz(part.to(dtype)) for part in g.split(at_once)]).to(g.dtype) if len(g) else g


def newton_schulz(g: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    x = g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def is_matrix(name: str, p: Tensor) -> bool:
    """Whether a parameter maps vectors to vectors inside the model."""
    others = ("embed.weight", "head.weight", ".gate.weight", ".weights_proj.weight", ".ape")
    return p.dim() > 1 and "hc_" not in name and not name.endswith(others)


def optimizers(model: Model, t: dict, team: Team, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    named = [(name, p) for name, p in model.named_parameters()]
    decayed = [p for name, p in named if not is_matrix(name, p) and p.dim() > 1 and "hc_" not in name]
    plain = [p for name, p in named if not is_matrix(name, p) and (p.dim() == 1 or "hc_" in name)]
    groups = [dict(params=decayed, weight_decay=t["weight_decay"]), dict(params=plain, weight_decay=0.0)]
    return [
        Muon([p for name, p in named if is_matrix(name, p)], t["weight_decay"], team, dtype),
        torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-10),
    ]


def falls_from(t: dict, total: float) -> float:
    """After how many tokens the learning rate begins to fall."""
    return total * (1 - t["decay"])


def rate(t: dict, seen: float, total: float) -> float:
    """The learning rate after `seen` tokens."""
    warm = min(1.0, (seen + t["batch_tokens"]) / t["warmup_tokens"])
    left = max(0.0, (total - seen) / (total * t["decay"]))
    return t["learning_rate"] * min(warm, left, 1.0)


class Trainer:
    """A run: the model, its optimizers, and how far it is."""

    def __init__(self, config: dict, data: Path, out: Path, total: float, device: str = "cpu", bfloat16: bool = False):
        self.config, self.t, self.out, self.total = config, config["training"], out, total
        self.device, self.team = torch.device(device), Team()
        self.dtype = torch.bfloat16 if bfloat16 or self.device.type == "cuda" else torch.float32
        parts, rest = divmod(self.t["batch_tokens"], self.t["micro_tokens"])
        if rest or parts % self.team.size:
            raise SystemExit(f"{parts} parts of a batch are not to be shared by {self.team.size} processes")
        self.split = Split(data, "train")
        manifest = (data / "manifest.json").read_bytes()
        self.manifest, self.kinds = hashlib.sha256(manifest).hexdigest(), list(json.loads(manifest)["kinds"])
        self.model = Model(Config.of(config["model"])).initialize(self.t["seed"])
        self.hash_tables()
        self.model.to(self.device)
        self.optimizers = optimizers(self.model, self.t, self.team, self.dtype)
        self.step = self.seen = self.epoch = self.at = 0
        self.falls = False
        self.seconds = 0.0
        self.packing: tuple[int, Packing] | None = None

    def in_its_type(self) -> torch.autocast:
        """Within this, matrices are multiplied in the run's type."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def hash_tables(self) -> None:
        """Fills the hash layers' tables: a word's experts are those with least to do so far, frequent words first."""
        c = self.model.c
        count = np.bincount(self.split.tokens[:] & (CONTEXT - 1), minlength=c.vocab_size)
        for i, layer in enumerate(self.model.layers[: c.num_hash_layers]):
            r = np.random.default_rng(self.t["seed"] + i)
            load = np.zeros(c.n_routed_experts)
            table = np.zeros((c.vocab_size, c.num_experts_per_tok), np.int64)
            for word in np.argsort(-count, kind="stable"):
                table[word] = np.argsort(load + r.random(len(load)))[: c.num_experts_per_tok]
                load[table[word]] += count[word] + 1
            layer.ffn.gate.tid2eid.copy_(torch.from_numpy(table))

    def next_part(self) -> Batch:
        """The next `micro_tokens` tokens, in rows of one length."""
        if not self.falls and self.seen >= falls_from(self.t, self.total):
            self.falls, self.epoch, self.at = True, self.epoch + 1, 0
        if self.packing is None or self.packing[0] != self.epoch:
            t, seed = self.t, f"{self.t['seed']} {self.epoch}"
            self.packing = self.epoch, Packing(self.split, t["lengths"], t["micro_tokens"], seed, self.documents())
        packing = self.packing[1]
        part = packing.batch(self.at)
        self.at += 1
        if self.at == len(packing.batches):
            self.epoch, self.at = self.epoch + 1, 0
        return part

    def documents(self) -> np.ndarray:
        """Those of this epoch: all; while the rate falls, of each kind a share, others in every epoch."""
        kinds, shares = self.split.kinds, self.t["fall_shares"]
        if not self.falls:
            return np.arange(len(kinds))
        chance = np.array([shares.get(kind, 0.0) for kind in self.kinds])
        return np.nonzero(np.random.default_rng([self.t["seed"], self.epoch]).random(len(kinds)) < chance[kinds])[0]

    def train_step(self) -> dict:
        """One batch, in parts that fit the caches or the GPU. Gives its losses."""
        t, model = self.t, self.model
        parts = [self.next_part() for _ in range(t["batch_tokens"] // t["micro_tokens"])]
        drafts = self.step % t["draft_every"] == 0
        n = [max(sum(n_learned(part, ahead) for part in parts), 1) for ahead in (1, 2)]
        scored = [layer.ffn for layer in model.layers[model.c.num_hash_layers :]]
        scored += [m.ffn for m in model.mtp] if drafts else []
        loads = torch.zeros(len(scored), model.c.n_routed_experts, device=self.device)
        totals = torch.zeros(3, device=self.device)
        weights = torch.tensor([1.0, t["draft_weight"], t["index_weight"]], device=self.device)
        for part in self.team.share(parts):
            with self.in_its_type():
                l = model.losses(*part.tensors(self.device), drafts, t["index_stride"])
            losses = torch.stack([l.next / n[0], l.draft / n[1], l.index / len(parts)])
            (losses @ weights).backward()
            totals += losses.detach()
            for load, ffn in zip(loads, scored):
                load += torch.bincount(ffn.chosen.flatten(), minlength=len(load))
        self.team.add([p.grad for p in model.parameters() if p.grad is not None] + [loads, totals])
        self.update(loads, scored)
        self.step += 1
        self.seen += sum(part.ids.size for part in parts)
        next_loss, draft_loss, index_loss = totals.tolist()
        return dict(loss=next_loss, draft=draft_loss if drafts else None, index=index_loss)

    def update(self, loads: Tensor, scored: list[nn.Module]) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        lr = rate(self.t, self.seen, self.total)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for load, ffn in zip(loads, scored):
            ffn.gate.bias += self.t["bias_rate"] * (load.mean() - load).sign()

    def save(self) -> None:
        """Writes a file beside, then puts it in the place of the last: it is there in full or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        new, last = self.out / "checkpoint.new", self.out / "checkpoint.pt"
        state = dict(
            config=self.config,
            manifest=self.manifest,
            model=self.model.state_dict(),
            total=self.total,
            optimizers=[o.state_dict() for o in self.optimizers],
            step=self.step,
            seen=self.seen,
            epoch=self.epoch,
            at=self.at,
            falls=self.falls,
            seconds=self.seconds,
            rng=torch.get_rng_state(),
        )
        with open(new, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if last.exists():
            os.replace(last, self.out / "previous.pt")
        os.replace(new, last)

    def resume(self) -> bool:
        """Takes up the newest checkpoint, if there is one."""
        path = next((p for p in (self.out / "checkpoint.pt", self.out / "previous.pt") if p.exists()), None)
        if path is None:
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        if (state["config"], state["manifest"]) != (self.config, self.manifest):
            raise SystemExit(f"{path} is of a run with another config or other data")
        settled = falls_from(self.t, min(state["total"], self.total))
        if state["total"] != self.total and state["seen"] > settled:
            raise SystemExit(f"{path} has seen {state['seen']} tokens; --tokens can't be changed after {settled:.0f}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        for name in ("step", "seen", "epoch", "at", "falls"):
            setattr(self, name, state[name])
        self.seconds = state["seconds"]
        torch.set_rng_state(state["rng"].cpu())
        return True


def n_learned(part: Batch, ahead: int) -> int:
    """How many tokens are learned from those that are `ahead` places before them."""
    return int((part.learned[:, ahead:] & (part.start[:, ahead:] == part.start[:, :-ahead])).sum())


def word_bytes(tokenizer: Path) -> Tensor:
    """How many bytes of text each id stands for; marks for none."""
    file = json.loads(tokenizer.read_text())
    size = torch.zeros(max(t["id"] for t in file["added_tokens"]) + 1)
    for text, i in file["model"]["vocab"].items():
        size[i] = len(text)
    for token in file["added_tokens"]:
        size[token["id"]] = 0
    return size


@torch.no_grad()
def evaluate(trainer: Trainer, held: Split, sizes: Tensor, tokens_max: int) -> dict:
    """Per kind, always on the same documents: nats per token, marks of the format included; the same as bits per byte
    of text; how often the best word is right; and how often the one drafted after the text's next word is the model's
    own best there. For stories, and for all kinds together, also how experts are used."""
    model, t, found = trainer.model.eval(), trainer.t, {}
    of_all = Usage(model)
    for kind, name in enumerate(trainer.kinds):
        which = np.random.default_rng(0).permutation(np.nonzero(held.kinds == kind)[0])
        which = which[np.cumsum(held.lengths[which]) <= tokens_max]
        if not len(which):
            continue
        packing = Packing(held, t["lengths"], t["micro_tokens"], "held", which, keeps_rest=True)
        sums, of_kind = torch.zeros(6), Usage(model)
        for i in range(len(packing.batches)):
            sums += batch_sums(trainer, packing.batch(i), sizes, [of_kind, of_all])
        loss, n, size, right, accepted, n_draft = sums.tolist()
        found[name] = dict(
            nats=loss / n,
            right=right / n,
            bits_per_byte=loss / math.log(2) / max(size, 1),
            accepted=accepted / max(n_draft, 1),
            tokens=int(n),
        )
        if name == "stories":
            found[name]["experts"] = of_kind.told()
    found["experts"] = of_all.told()
    model.train()
    return found


def batch_sums(trainer: Trainer, batch: Batch, sizes: Tensor, usages: list["Usage"]) -> Tensor:
    """Loss, tokens, bytes, right words, accepted drafts, drafts."""
    model = trainer.model
    ids, start, learned = batch.tensors(trainer.device)
    with trainer.in_its_type():
        layout = Layout(model.c, start)
        x = model.trunk(ids, layout)
        logits = model.head(head(model, x, model.c)).float()
        after = ids.roll(-1, 1)
        drafted = model.mtp[0].draft(x, after, model.embed(after), layout) if model.mtp else None
        drafted = model.head(drafted).argmax(-1) if model.mtp else torch.full_like(ids, -1)
    for usage in usages:
        usage.add(ids, start)
    best = logits.argmax(-1)
    keep = learned[:, 1:] & (start[:, 1:] == start[:, :-1])
    target = ids[:, 1:][keep]
    loss = nn.functional.cross_entropy(logits[:, :-1][keep], target, reduction="sum")
    keep_draft = learned[:, 2:] & (start[:, 2:] == start[:, :-2])
    accepted = (drafted[:, :-2] == best[:, 1:-1])[keep_draft].sum()
    values = [
        loss,
        keep.sum(),
        sizes.to(trainer.device)[target].sum(),
        (best[:, :-1][keep] == target).sum(),
        accepted,
        keep_draft.sum(),
    ]
    return torch.stack([v.float().cpu() for v in values])


class Usage:
    """How often each expert of each layer is chosen, and how often the one that neighbours share."""

    def __init__(self, model: Model):
        self.layers = [layer.ffn for layer in model.layers]
        n = model.c.n_routed_experts
        self.count = torch.zeros(len(self.layers), n)
        self.shared = torch.zeros(len(self.layers))
        self.n_pair = 0

    def add(self, ids: Tensor, start: Tensor) -> None:
        """Counts a batch; BOS and what fills rows have id 0, and are left out."""
        said = (ids != 0).cpu()
        same = (start[:, 1:] == start[:, :-1]).cpu() & said[:, 1:] & said[:, :-1]
        self.n_pair += int(same.sum())
        for i, ffn in enumerate(self.layers):
            chosen = ffn.chosen.view(*start.shape, -1).cpu()
            self.count[i] += torch.bincount(chosen[said].flatten(), minlength=self.count.shape[1])
            shares = (chosen[:, 1:, :, None] == chosen[:, :-1, None, :]).any(-1).float().mean(-1)
            self.shared[i] += shares[same].sum()

    def told(self) -> list[dict]:
        """Per layer: the largest and smallest load over the mean, the share of experts that the token before had too,
        and what that share would be if tokens chose on their own."""
        n_used = self.layers[0].chosen.shape[-1]
        p = self.count / self.count.sum(1, keepdim=True) * n_used
        mean = n_used / p.shape[1]
        chance = p.square().sum(1) / n_used
        rows = zip(p.max(1).values / mean, p.min(1).values / mean, self.shared / max(self.n_pair, 1), chance)
        return [dict(zip(("most", "least", "shared", "by_chance"), (round(v.item(), 4) for v in row))) for row in rows]


def machine() -> dict:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = next(
        (l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor()
    )
    return dict(
        cpu=cpu,
        cores=os.cpu_count(),
        gpu=gpu,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
    )


class Log:
    """Lines of JSON, of the first process: in a file, and in short on the screen."""

    def __init__(self, out: Path, team: Team):
        self.prints = team.rank == 0
        path = out / "log.jsonl" if self.prints else Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "a")

    def write(self, **values) -> None:
        line = json.dumps(values)
        self.file.write(line + "\n")
        self.file.flush()
        if self.prints:
            print(line[:300], flush=True)


def run(trainer: Trainer, a: argparse.Namespace, log: Log) -> None:
    """Steps until the tokens or the minutes are used up."""
    held, sizes = Split(a.data, "held"), word_bytes(a.tokenizer / "tokenizer.json")
    begun = saved = evaluated = time.monotonic()
    progress = Progress(trainer)
    is_first = trainer.team.rank == 0

    def has_time() -> bool:
        return trainer.team.first_says(time.monotonic() - begun < 60 * a.minutes, trainer.device)

    def finish_part() -> None:
        trainer.save()
        found = evaluate(trainer, held, sizes, a.held_tokens)
        log.write(step=trainer.step, tokens=trainer.seen, held=found)

    while trainer.seen < trainer.total and has_time():
        losses = trainer.train_step()
        if not is_first:
            continue
        progress.add(losses)
        if trainer.step % a.log_every == 0:
            log.write(**progress.told())
        if time.monotonic() - saved > 60 * a.save_minutes:
            trainer.save()
            saved = time.monotonic()
        if time.monotonic() - evaluated > 60 * a.evaluate_minutes:
            finish_part()
            evaluated = time.monotonic()
    if is_first:
        finish_part()


class Progress:
    """What a line of the log says: means since the last, and the speed."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.losses = trainer, []
        self.seen, self.at = trainer.seen, time.monotonic()

    def add(self, losses: dict) -> None:
        self.losses.append(losses)

    def told(self) -> dict:
        t, now = self.trainer, time.monotonic()
        known = {name: [l[name] for l in self.losses if l[name] is not None] for name in self.losses[0]}
        t.seconds += now - self.at
        line = dict(step=t.step, tokens=t.seen)
        line |= {name: round(sum(x) / len(x), 4) for name, x in known.items() if x}
        line |= dict(
            lr=round(rate(t.t, t.seen, t.total), 6),
            tokens_per_second=round((t.seen - self.seen) / (now - self.at)),
            seconds=round(t.seconds),
            load=round(os.getloadavg()[0], 2),
        )
        self.losses, self.seen, self.at = [], t.seen, now
        return line


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", type=Path, required=True)
    ap.add_argument("--data", type=Path, required=True, help="token files, as data.py writes them")
    ap.add_argument("--tokenizer", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument(
        "--tokens", type=float, required=True, help="tokens of the whole run, on which the schedule depends"
    )
    ap.add_argument("--minutes", type=float, default=math.inf, help="stop after these, with a checkpoint")
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    ap.add_argument("--bfloat16", action="store_true", help="multiply matrices in bfloat16 on a CPU, too")
    ap.add_argument("--threads", type=int, help="threads of the CPU")
    ap.add_argument("--log-every", type=int, default=10, help="steps")
    ap.add_argument("--save-minutes", type=float, default=5)
    ap.add_argument("--evaluate-minutes", type=float, default=60)
    ap.add_argument("--held-tokens", type=int, default=8000, help="held-out tokens of each kind")
    a = ap.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    if a.device == "cuda":
        a.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(a.device)
    vocabulary = hashlib.sha256((a.tokenizer / "tokenizer.json").read_bytes()).hexdigest()
    if vocabulary != json.loads((a.data / "manifest.json").read_text())["tokenizer_sha256"]:
        raise SystemExit(f"{a.tokenizer} is not the vocabulary that {a.data} was made with")
    config = json.loads(a.config.read_text())
    trainer = Trainer(config, a.data, a.out, a.tokens, a.device, a.bfloat16)
    resumed = trainer.resume()
    log = Log(a.out, trainer.team)
    log.write(
        start=time.strftime("%Y-%m-%d %H:%M:%S"),
        resumed=resumed,
        step=trainer.step,
        machine=machine(),
        dtype=str(trainer.dtype).removeprefix("torch."),
        config=config,
        total=a.tokens,
        manifest=trainer.manifest,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )
    run(trainer, a, log)


if __name__ == "__main__":
    main()
