//! The tensors, by the names of the GGUF: llama.cpp's and ds4's files share them, types differ.

use compute::{Device, Pairs, Rope, Tensor};
use gguf::Gguf;

use super::config::{CSA_RATIO, Config};
use crate::{
    Error, Residency, Work,
    loader::{Bound, Experts, Loader},
};

/// A bound file.
pub(crate) struct Weights {
    pub(crate) config: Config,
    pub(crate) bound: Bound,
    pub(crate) embed: Tensor, // [n_vocab, n_embd]
    pub(crate) layers: Vec<Layer>,
    pub(crate) head: HyperWeights,  // fn [n_stream, n_stream * n_embd], scale [1]
    pub(crate) output_norm: Tensor, // [n_embd]
    pub(crate) output: Tensor,      // [n_vocab, n_embd]
}

/// A layer's weights.
pub(crate) struct Layer {
    pub(crate) hyper_attn: HyperWeights,
    pub(crate) hyper_ffn: HyperWeights,
    pub(crate) attn: AttnWeights,
    pub(crate) ffn: FfnWeights,
}

/// What decides how streams meet a layer.
pub(crate) struct HyperWeights {
    pub(crate) mix: Tensor,   // [(2 + n_stream) * n_stream, n_stream * n_embd]
    pub(crate) base: Tensor,  // [(2 + n_stream) * n_stream]
    pub(crate) scale: Tensor, // [3]
}

/// Attention.
pub(crate) struct AttnWeights {
    pub(crate) norm: Tensor,    // [n_embd]
    pub(crate) q_a: Tensor,     // [q_rank, n_embd]
    pub(crate) q_norm: Tensor,  // [q_rank]
    pub(crate) q_b: Tensor,     // [n_head * head_dim, q_rank]
    pub(crate) kv: Tensor,      // [head_dim, n_embd]
    pub(crate) kv_norm: Tensor, // [head_dim]
    pub(crate) sinks: Tensor,   // [n_head]
    pub(crate) out_a: Tensor,   // [n_group * o_rank, n_head * head_dim / n_group]
    pub(crate) out_b: Tensor,   // [n_embd, n_group * o_rank]
    pub(crate) rope: Rope,
    pub(crate) compressor: Option<CompressorWeights>,
    pub(crate) indexer: Option<IndexerWeights>,
}

/// Makes compressed rows; `width` is `2 * head_dim` where windows overlap, else `head_dim`.
pub(crate) struct CompressorWeights {
    pub(crate) kv: Tensor,   // [width, n_embd]
    pub(crate) gate: Tensor, // [width, n_embd]
    pub(crate) ape: Tensor,  // [ratio, width]
    pub(crate) norm: Tensor, // [head_dim]
}

/// Picks compressed rows.
pub(crate) struct IndexerWeights {
    pub(crate) q_b: Tensor,  // [indexer.n_head * indexer.head_dim, q_rank]
    pub(crate) proj: Tensor, // [indexer.n_head, n_embd]
    pub(crate) compressor: CompressorWeights,
}

/// Experts.
pub(crate) struct FfnWeights {
    pub(crate) norm: Tensor,          // [n_embd]
    pub(crate) router: Tensor,        // [n_expert, n_embd]
    pub(crate) bias: Option<Tensor>,  // [n_expert]
    pub(crate) table: Option<Tensor>, // [n_vocab, n_used]
    pub(crate) experts: Experts,
    pub(crate) shared_gate: Tensor, // [n_ff_shared, n_embd]
    pub(crate) shared_up: Tensor,   // [n_ff_shared, n_embd]
    pub(crate) shared_down: Tensor, // [n_embd, n_ff_shared]
}

impl Weights {
    pub(crate) fn load(gguf: &Gguf, dev: &dyn Device, residency: Residency) -> Result<Weights, Error> {
        let l = Loader::new(gguf, dev, residency);
        let c = Config::read(gguf, l.rows_of("token_embd.weight")?)?;
        let rope = |freq: &[f32]| -> Result<Rope, Error> {
            Ok(Rope { freq: l.upload(&[freq.len()], freq)?, pairs: Pairs::Adjacent, tail: true, scale: 1.0 })
        };
        let ropes = [rope(&c.freq)?, rope(&c.freq_compressed)?];
        let n = c.n_stream;
        Ok(Weights {
            embed: l.matrix("token_embd.weight", &[c.n_vocab, c.n_embd])?,
            layers: (0..c.ratios.len()).map(|i| Layer::load(&l, &c, &ropes, i)).collect::<Result<_, _>>()?,
            head: HyperWeights::load(&l, "output_hc", [n, n * c.n_embd, 1])?,
            output_norm: l.vector("output_norm.weight", &[c.n_embd])?,
            output: l.matrix("output.weight", &[c.n_vocab, c.n_embd])?,
            bound: l.finish(|name| c.is_left_out(name))?,
            config: c,
        })
    }
}

impl Layer {
    fn load(l: &Loader, c: &Config, ropes: &[Rope; 2], i: usize) -> Result<Layer, Error> {
        let n = c.n_stream;
        let hyper = |part: &str| HyperWeights::load(l, &format!("blk.{i}.hc_{part}"), [(2 + n) * n, n * c.n_embd, 3]);
        Ok(Layer {
            hyper_attn: hyper("attn")?,
            hyper_ffn: hyper("ffn")?,
            attn: AttnWeights::load(l, c, ropes, i)?,
            ffn: FfnWeights::load(l, c, i)?,
        })
    }
}

impl Layer {
    /// The products of one token.
    pub(crate) fn work(&self, n_used: usize) -> Work {
        let (a, f) = (&self.attn, &self.ffn);
        let always = [&self.hyper_attn.mix, &self.hyper_ffn.mix, &a.q_a, &a.q_b, &a.kv, &a.out_a, &a.out_b, &f.router];
        let shared = [&f.shared_gate, &f.shared_up, &f.shared_down];
        let indexer = a.indexer.iter().flat_map(|x| [&x.q_b, &x.proj, &x.compressor.kv, &x.compressor.gate]);
        let compressor = a.compressor.iter().flat_map(|x| [&x.kv, &x.gate]);
        let dense = always.into_iter().chain(shared).chain(indexer).chain(compressor);
        dense.map(Work::of).chain([f.experts.work.times(n_used)]).sum()
    }
}

impl HyperWeights {
    fn load(l: &Loader, name: &str, [n_out, n_in, n_scale]: [usize; 3]) -> Result<HyperWeights, Error> {
        Ok(HyperWeights {
            mix: l.matrix(&format!("{name}_fn.weight"), &[n_out, n_in])?,
            base: l.vector(&format!("{name}_base.weight"), &[n_out])?,
            scale: l.vector(&format!("{name}_scale.weight"), &[n_scale])?,
        })
    }
}

impl AttnWeights {
    fn load(l: &Loader, c: &Config, ropes: &[Rope; 2], i: usize) -> Result<AttnWeights, Error> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let (ratio, n_q, n_o) = (c.ratios[i], c.n_head * c.head_dim, c.n_group * c.o_rank);
        let compressor =
            |part: &str, head_dim: usize| CompressorWeights::load(l, &name(part), c.n_embd, ratio, head_dim);
        let indexer = match c.indexer.filter(|_| ratio == CSA_RATIO) {
            None => None,
            Some(x) => Some(IndexerWeights {
                q_b: l.matrix(&name("indexer.attn_q_b"), &[x.n_head * x.head_dim, c.q_rank])?,
                proj: l.matrix(&name("indexer.proj"), &[x.n_head, c.n_embd])?,
                compressor: compressor("indexer_compressor_*", x.head_dim)?,
            }),
        };
        Ok(AttnWeights {
            norm: l.vector(&name("attn_norm"), &[c.n_embd])?,
            q_a: l.matrix(&name("attn_q_a"), &[c.q_rank, c.n_embd])?,
            q_norm: l.vector(&name("attn_q_a_norm"), &[c.q_rank])?,
            q_b: l.matrix(&name("attn_q_b"), &[n_q, c.q_rank])?,
            kv: l.matrix(&name("attn_kv"), &[c.head_dim, c.n_embd])?,
            kv_norm: l.vector(&name("attn_kv_a_norm"), &[c.head_dim])?,
            sinks: l.vector(&name("attn_sinks"), &[c.n_head])?,
            out_a: l.matrix(&name("attn_output_a"), &[n_o, n_q / c.n_group])?,
            out_b: l.matrix(&name("attn_output_b"), &[c.n_embd, n_o])?,
            rope: ropes[usize::from(ratio > 0)].clone(),
            compressor: if ratio > 0 { Some(compressor("attn_compressor_*", c.head_dim)?) } else { None },
            indexer,
        })
    }
}

impl CompressorWeights {
    /// `name` holds a star in place of the part's name.
    fn load(l: &Loader, name: &str, n_embd: usize, ratio: usize, head_dim: usize) -> Result<CompressorWeights, Error> {
        let (name, width) = (|part: &str| name.replace('*', part), Config::compressor_width(ratio, head_dim));
        Ok(CompressorWeights {
            kv: l.matrix(&name("kv"), &[width, n_embd])?,
            gate: l.matrix(&name("gate"), &[width, n_embd])?,
            ape: l.vector(&name("ape"), &[ratio, width])?,
            norm: l.vector(&name("norm"), &[head_dim])?,
        })
    }
}

impl FfnWeights {
    fn load(l: &Loader, c: &Config, i: usize) -> Result<FfnWeights, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let m = &c.moe;
        let hashed = i < m.n_hash_layer;
        let bias = || l.vector(&name("exp_probs_b.bias"), &[m.n_expert]);
        let table = || l.expert_numbers(&name("ffn_gate_tid2eid.weight"), &[c.n_vocab, m.n_used], m.n_expert);
        let (up, down) = ([m.n_expert, m.n_ff, c.n_embd], [m.n_expert, c.n_embd, m.n_ff]);
        Ok(FfnWeights {
            norm: l.vector(&name("ffn_norm.weight"), &[c.n_embd])?,
            router: l.matrix(&name("ffn_gate_inp.weight"), &[m.n_expert, c.n_embd])?,
            bias: if hashed { None } else { Some(bias()?) },
            table: if hashed { Some(table()?) } else { None },
            experts: l.experts(
                ["gate", "up", "down"].map(|part| name(&format!("ffn_{part}_exps.weight"))).each_ref().map(|n| &**n),
                [up, up, down],
            )?,
            shared_gate: l.matrix(&name("ffn_gate_shexp.weight"), &[m.n_ff_shared, c.n_embd])?,
            shared_up: l.matrix(&name("ffn_up_shexp.weight"), &[m.n_ff_shared, c.n_embd])?,
            shared_down: l.matrix(&name("ffn_down_shexp.weight"), &[c.n_embd, m.n_ff_shared])?,
        })
    }
}
