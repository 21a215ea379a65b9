//! The store's own rule.

use super::Policy;
use crate::{heat::Heat, trace::Head};

pub(super) struct Ours {
    n_expert: usize,
    heat: Heat,
}

impl Ours {
    pub(super) fn new(head: &Head) -> Ours {
        Ours { n_expert: head.n_expert, heat: Heat::new(head.n_layer, head.n_expert) }
    }
}

impl Policy for Ours {
    fn tick(&mut self, layer: usize, _: usize) {
        self.heat.tick(layer);
    }

    fn choose(&mut self, key: usize, n: usize, n_rows: usize) {
        self.heat.add(key / self.n_expert, key % self.n_expert, n as f32 / n_rows as f32);
    }

    fn enter(&mut self, key: usize) {
        self.heat.enter(key);
    }

    fn leave(&mut self, key: usize) {
        self.heat.leave(key);
    }

    fn victim(&mut self, kept: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.heat.coldest().find(|&key| !kept(key))
    }
}
