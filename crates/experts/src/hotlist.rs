//! Which experts a model used most, over its runs: learned while it runs, and where the next one starts.
//!
//! ```text
//! # experts 1 model=9f86d081884c7d65 n_layer=43 n_expert=256 n_seen=37
//! layer,expert,heat
//! 3,17,5.25
//! ```
//!
//! What is kept of an expert is its mean heat over the times that somebody looked. `n_seen` says how many these were, up to
//! [`N_SEEN_MAX`]: what is new then counts against so many, so that one odd session does not erase a long history, and old
//! habits fade. Experts that are far colder than the hottest are left out. `docs/formats/hotlist.md` has every field.
//!
//! The file is a stranger: what is not exactly a list of this model's experts is refused with its line, and nothing is
//! allocated by what it says.

use crate::{Places, heat::HEAT_MAX};

/// Observations that the past counts for at most.
const N_SEEN_MAX: u32 = 360;

/// Of the hottest one's heat, the part below which an expert is not worth a line.
const COLD: f32 = 1e-4;

/// The longest line that is written.
const LINE_BYTES_MAX: u64 = 64;

const COLUMNS: &str = "layer,expert,heat";

/// The mean heat of a model's experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Hotlist {
    n_expert: usize,
    n_seen: u32,
    heat: Vec<f32>, // [n_layer, n_expert]
}

/// Why a file is no hotlist of this model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct NoHotlist {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

impl Hotlist {
    /// Nothing is known yet about the experts at `places`.
    pub fn new(places: &Places) -> Hotlist {
        Hotlist::empty(places.layers.len(), places.n_expert)
    }

    fn empty(n_layer: usize, n_expert: usize) -> Hotlist {
        Hotlist { n_expert, n_seen: 0, heat: vec![0.0; n_layer * n_expert] }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.n_seen == 0
    }

    /// One more observation: the heat of all experts that have any, as `(layer, expert, heat)`.
    ///
    /// # Panics
    /// If there is no such layer or expert.
    pub fn see(&mut self, hot: &[(usize, usize, f32)]) {
        let mut seen = Hotlist { n_seen: 1, heat: vec![0.0; self.heat.len()], ..*self };
        for &(layer, e, heat) in hot {
            seen.heat[layer * self.n_expert + e] = heat.clamp(0.0, HEAT_MAX);
        }
        self.merge(&seen);
    }

    /// Adds what another run saw of the same model; each counts by how much it saw.
    ///
    /// # Panics
    /// If it is of another model.
    pub fn merge(&mut self, other: &Hotlist) {
        assert!(self.heat.len() == other.heat.len() && self.n_expert == other.n_expert, "lists of one model");
        let n_seen = self.n_seen + other.n_seen;
        let share = other.n_seen as f32 / n_seen.max(1) as f32;
        self.heat.iter_mut().zip(&other.heat).for_each(|(mean, heat)| *mean += (heat - *mean) * share);
        self.n_seen = n_seen.min(N_SEEN_MAX);
    }

    /// The experts worth a place, hottest first, as `(layer, expert, heat)`.
    pub fn hottest(&self) -> Vec<(usize, usize, f32)> {
        let least = COLD * self.heat.iter().fold(0.0, |most: f32, heat| most.max(*heat));
        let known = self.heat.iter().enumerate().filter(|(_, heat)| **heat > least);
        let mut hot: Vec<_> = known.map(|(i, heat)| (i / self.n_expert, i % self.n_expert, *heat)).collect();
        hot.sort_by(|a, b| b.2.total_cmp(&a.2));
        hot
    }

    /// The longest file that can be a list of this model.
    pub fn bytes_max(&self) -> u64 {
        LINE_BYTES_MAX * (self.heat.len() as u64 + 8)
    }

    /// The file, of the model that is identified by `model`.
    pub fn to_text(&self, model: &str) -> String {
        let mut text = format!("{}{}\n{COLUMNS}\n", self.head(model), self.n_seen);
        for (layer, e, heat) in self.hottest() {
            text += &format!("{layer},{e},{heat}\n");
        }
        text
    }

    /// Reads a file as a list of the same experts of the model that is identified by `model`.
    ///
    /// # Errors
    /// The first line that is none of such a list.
    pub fn read(&self, model: &str, bytes: &[u8]) -> Result<Hotlist, NoHotlist> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = (1..).zip(text.lines());
        let n_seen = self.read_head(model, lines.next().map_or("", |(_, line)| line))?;
        if lines.next().is_none_or(|(_, line)| line != COLUMNS) {
            return Err(NoHotlist { line: 2, what: "the names of the columns are others" });
        }
        let mut list = Hotlist { n_seen, heat: vec![0.0; self.heat.len()], ..*self };
        for (line, entry) in lines {
            let expert = list.entry(entry).filter(|&(i, _)| list.heat[i] == 0.0);
            let (i, heat) = expert.ok_or(NoHotlist { line, what: "no expert of this model with its heat" })?;
            list.heat[i] = heat;
        }
        Ok(list)
    }

    /// The first line, up to the number that ends it.
    fn head(&self, model: &str) -> String {
        let n_layer = self.heat.len() / self.n_expert.max(1);
        format!("# experts 1 model={model} n_layer={n_layer} n_expert={} n_seen=", self.n_expert)
    }

    fn read_head(&self, model: &str, line: &str) -> Result<u32, NoHotlist> {
        let n_seen = line.strip_prefix(&self.head(model)).and_then(|n| n.parse().ok());
        let n_seen = n_seen.filter(|n| (1..=N_SEEN_MAX).contains(n));
        n_seen.ok_or(NoHotlist { line: 1, what: "no list of experts of this model, in this version's format" })
    }

    /// Index and heat of an expert, from its line.
    fn entry(&self, line: &str) -> Option<(usize, f32)> {
        let mut fields = line.split(',');
        let (layer, e): (usize, usize) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let heat: f32 = fields.next()?.parse().ok()?;
        let known = layer < self.heat.len() / self.n_expert.max(1) && e < self.n_expert;
        let whole = known && fields.next().is_none() && heat > 0.0 && heat <= HEAT_MAX;
        whole.then(|| (layer * self.n_expert + e, heat))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    const MODEL: &str = "9f86d081884c7d65";

    fn list(hot: &[(usize, usize, f32)]) -> Hotlist {
        let mut list = Hotlist::empty(3, 4);
        list.see(hot);
        list
    }

    #[test]
    fn what_was_written_is_read() {
        let mut known = list(&[(0, 3, 1.0), (2, 1, 5.25), (1, 0, 0.1)]);
        known.see(&[(0, 3, 3.0)]);
        let text = known.to_text(MODEL);
        expect![[r#"
            # experts 1 model=9f86d081884c7d65 n_layer=3 n_expert=4 n_seen=2
            layer,expert,heat
            2,1,2.625
            0,3,2
            1,0,0.05
        "#]]
        .assert_eq(&text);
        assert_eq!(Hotlist::empty(3, 4).read(MODEL, text.as_bytes()), Ok(known));
    }

    fn check(text: &str, shown: &str) {
        let read = Hotlist::empty(3, 4).read(MODEL, text.as_bytes());
        assert_eq!(read.map_or_else(|e| e.to_string(), |list| format!("{:?}", list.hottest())), shown);
    }

    #[test]
    fn what_is_no_list_of_this_model_is_refused_with_its_line() {
        let whole = list(&[(2, 1, 5.25)]).to_text(MODEL);
        let with = |lines: &str| format!("{whole}{lines}");
        check(&with(""), "[(2, 1, 5.25)]");
        check(&with("0,0,1"), "[(2, 1, 5.25), (0, 0, 1.0)]");
        let foreign = "line 1: no list of experts of this model, in this version's format";
        check("", foreign);
        check(&whole.replace("9f", "8f"), foreign);
        check(&whole.replace("experts 1", "experts 2"), foreign);
        check(&whole.replace("n_expert=4", "n_expert=5"), foreign);
        for n_seen in ["0", "361", "-1", "99999999999", ""] {
            check(&whole.replace("n_seen=1", &format!("n_seen={n_seen}")), foreign);
        }
        check(&whole.replace("layer,", "layers,"), "line 2: the names of the columns are others");
        check(&whole[..whole.find('\n').unwrap_or(0)], "line 2: the names of the columns are others");
        let damaged = "line 4: no expert of this model with its heat";
        for line in
            ["3,0,1", "0,4,1", "0,0,0", "0,0,-1", "0,0,NaN", "0,0,inf", "0,0,51", "0,0", "0,0,1,1", "2,1,1", "\n"]
        {
            check(&with(&format!("{line}\n")), damaged);
        }
    }

    #[test]
    fn one_odd_session_does_not_erase_a_long_history() {
        let mut known = list(&[(0, 0, 8.0), (0, 1, 8.0)]);
        (0..2 * N_SEEN_MAX).for_each(|_| known.see(&[(0, 0, 8.0), (0, 1, 8.0)]));
        let mut odd = Hotlist::empty(3, 4);
        (0..30).for_each(|_| odd.see(&[(0, 1, 8.0), (2, 2, 8.0)]));
        known.merge(&odd);
        let order: Vec<_> = known.hottest().iter().map(|&(layer, e, _)| (layer, e)).collect();
        assert_eq!(order, [(0, 1), (0, 0), (2, 2)]);
        (0..4 * N_SEEN_MAX).for_each(|_| known.see(&[(2, 2, 8.0)]));
        assert_eq!(known.hottest()[0].0, 2, "and yet habits change");
    }

    #[test]
    fn the_halves_of_a_run_are_the_run() {
        let (mut halves, mut other, mut whole) = (list(&[(1, 1, 2.0)]), list(&[(1, 2, 4.0)]), list(&[(1, 1, 2.0)]));
        other.see(&[(1, 1, 6.0)]);
        [&[(1, 2, 4.0)], &[(1, 1, 6.0)]].iter().for_each(|hot| whole.see(*hot));
        halves.merge(&other);
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(halves.heat.iter().zip(&whole.heat).all(near) && halves.n_seen == whole.n_seen);
    }

    #[test]
    fn a_full_list_is_no_longer_than_files_may_be() {
        let hot: Vec<_> = (0..12).map(|i| (i / 4, i % 4, HEAT_MAX / (1.0 + i as f32 * 0.777))).collect();
        let known = list(&hot);
        assert!(known.hottest().len() == 12 && known.to_text(MODEL).len() as u64 <= known.bytes_max());
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_leaves_a_list(edits in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8), cut in any::<u16>()) {
            let hot: Vec<_> = (0..12).map(|i| (i / 4, i % 4, 1.0 + i as f32 / 7.0)).collect();
            let mut bytes = list(&hot).to_text(MODEL).into_bytes();
            for (at, byte) in edits {
                let at = at as usize % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut as usize % (2 * bytes.len()));
            if let Ok(list) = Hotlist::empty(3, 4).read(MODEL, &bytes) {
                let hot = list.hottest();
                prop_assert!(hot.len() <= 12 && hot.iter().all(|h| h.0 < 3 && h.1 < 4 && h.2 > 0.0 && h.2 <= HEAT_MAX));
            }
        }

        #[test]
        fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Hotlist::empty(3, 4).read(MODEL, &bytes).is_err());
        }
    }
}
