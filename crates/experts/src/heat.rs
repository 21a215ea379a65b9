//! Which expert is worth its slot: how often it was chosen, with old choices counting less.
//!
//! A choice adds the share of the batch's rows that made it, so that a prompt of hundreds of tokens, which brings nearly
//! every expert once, does not push out what decoding lives on. Every [`HALF_LIFE`] batches halve what was.

/// Batches of a layer after which a choice counts half.
const HALF_LIFE: f32 = 16.0;

/// Heat of every expert of every layer.
pub(crate) struct Heat {
    n_expert: usize,
    experts: Vec<Entry>,
    /// Batches that each layer has seen.
    now: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    heat: f32, // at `seen`
    seen: u32,
}

impl Heat {
    pub(crate) fn new(n_layer: usize, n_expert: usize) -> Heat {
        Heat { n_expert, experts: vec![Entry::default(); n_layer * n_expert], now: vec![0; n_layer] }
    }

    /// A batch begins in a layer.
    pub(crate) fn tick(&mut self, layer: usize) {
        self.now[layer] += 1;
    }

    /// Expert `e` was chosen by this share of the batch's rows.
    pub(crate) fn add(&mut self, layer: usize, e: usize, share: f32) {
        let heat = self.of(layer, e) + share;
        self.experts[layer * self.n_expert + e] = Entry { heat, seen: self.now[layer] };
    }

    /// How hot an expert is now.
    pub(crate) fn of(&self, layer: usize, e: usize) -> f32 {
        let entry = self.experts[layer * self.n_expert + e];
        entry.heat * (-((self.now[layer] - entry.seen) as f32) / HALF_LIFE).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_choices_count_less_and_prompts_little() {
        let mut heat = Heat::new(2, 4);
        heat.tick(0);
        heat.add(0, 1, 1.0);
        heat.add(0, 2, 6.0 / 512.0);
        assert!(heat.of(0, 1) > heat.of(0, 2) && heat.of(0, 2) > heat.of(0, 3));
        (0..16).for_each(|_| heat.tick(0));
        assert_eq!(heat.of(0, 1), 0.5);
        heat.tick(1);
        heat.add(1, 1, 1.0);
        assert!(heat.of(1, 1) > heat.of(0, 1), "other layers' time does not pass");
    }
}
