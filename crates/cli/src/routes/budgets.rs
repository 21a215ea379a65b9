//! `--budgets`: how many experts there is room for.
//!
//! ```text
//! 96          so many
//! 4GB         as many as fit
//! 12.5%       of all there are, rounded, but at least one
//! ```

use std::str::FromStr;

use experts::trace::Head;

use crate::{args::expert_cache, error::Error, units};

/// Each is a replay by every rule, a column of a table, and a point of a picture.
const N_MAX: usize = 100;

/// Several, with commas between them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budgets(Vec<Budget>);

#[derive(Clone, Debug, PartialEq)]
struct Budget {
    /// As it was given.
    text: String,
    room: Room,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    Experts(usize),
    Bytes(u64),
    Percent(f64),
}

impl FromStr for Budgets {
    type Err = String;

    fn from_str(text: &str) -> Result<Budgets, String> {
        let all =
            text.split(',').map(|text| Some(Budget { text: text.into(), room: room(text)? })).collect::<Option<_>>();
        all.map(Budgets).ok_or_else(|| {
            "must be numbers of experts, memory as in 500MB or 4GB, or percentages as in 12.5%, with commas between them"
                .into()
        })
    }
}

fn room(text: &str) -> Option<Room> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|p| *p > 0.0 && *p <= 100.0);
        return percent.map(Room::Percent);
    }
    match expert_cache(text) {
        Ok(engine::Budget::Count(n)) => Some(Room::Experts(n)),
        Ok(engine::Budget::Bytes(n)) => Some(Room::Bytes(n)),
        Ok(engine::Budget::Auto) | Err(_) => None,
    }
}

impl Budgets {
    /// Refuses more than anybody waits for.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.0.len() {
            0..=N_MAX => Ok(()),
            n => Err(Error::Usage {
                what: format!("--budgets has {n} budgets, but no more than {N_MAX} are replayed at a time"),
                help: "give fewer of them".into(),
            }),
        }
    }

    /// Experts that there is room for, for each budget: at least one, at most all.
    ///
    /// # Errors
    /// [`Error::Value`] if that is more than the model has, or not one.
    pub(crate) fn slots(&self, head: &Head) -> Result<Vec<usize>, Error> {
        self.0.iter().map(|budget| budget.slots(head)).collect()
    }
}

impl Budget {
    fn slots(&self, head: &Head) -> Result<usize, Error> {
        let n_experts = head.n_experts();
        let all_bytes = head.expert_bytes.saturating_mul(n_experts as u64);
        match self.room {
            Room::Percent(p) => Ok(((p / 100.0 * n_experts as f64).round() as usize).max(1)),
            Room::Experts(n) if n > n_experts => Err(self.refusal(format!("at most {n_experts}, all there are"))),
            Room::Experts(n) => Ok(n),
            Room::Bytes(n) if n > all_bytes => {
                Err(self.refusal(format!("at most the {} of all experts", units::bytes(all_bytes))))
            }
            Room::Bytes(n) if n < head.expert_bytes => {
                Err(self.refusal(format!("at least the {} of one expert", units::bytes(head.expert_bytes))))
            }
            Room::Bytes(n) => Ok((n / head.expert_bytes) as usize),
        }
    }

    fn refusal(&self, allowed: String) -> Error {
        Error::Value { flag: "--budgets".into(), value: self.text.clone(), allowed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_in_three_ways() {
        let head = Head { n_layer: 4, n_expert: 8, n_used: 2, expert_bytes: 1 << 20 };
        let slots = |text: &str| text.parse::<Budgets>().unwrap().slots(&head).map_err(|e| e.to_string());
        assert_eq!(slots("3,12.5%,8MB,100%,1%,32MB"), Ok(vec![3, 4, 8, 32, 1, 32]));
        assert_eq!(slots("3,33").unwrap_err(), "--budgets 33: must be at most 32, all there are");
        assert_eq!(slots("3,33mb").unwrap_err(), "--budgets 33mb: must be at most the 32.0 MiB of all experts");
        let large = Head { expert_bytes: 2 << 20, ..head };
        let error = "1MB".parse::<Budgets>().unwrap().slots(&large).unwrap_err().to_string();
        assert_eq!(error, "--budgets 1MB: must be at least the 2.0 MiB of one expert");
        for wrong in ["", "0", "0%", "101%", "nan%", "5%,", "-1", "auto", "1.5", "4 GB", "%"] {
            assert!(wrong.parse::<Budgets>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn more_than_anybody_waits_for_is_refused() {
        let check = |n: usize| vec!["5%"; n].join(",").parse::<Budgets>().unwrap().check();
        assert!(check(N_MAX).is_ok());
        let error = check(N_MAX + 1).unwrap_err().to_string();
        assert_eq!(error, "--budgets has 101 budgets, but no more than 100 are replayed at a time");
    }
}
