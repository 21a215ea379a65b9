//! `--budgets`: how many experts there is room for.
//!
//! ```text
//! 96          so many
//! 4GB         as many as fit
//! 12.5%       of all there are
//! ```

use std::str::FromStr;

use engine::Budget;
use experts::trace::Head;

use crate::{args::expert_cache, error::Error};

/// Several, with commas between them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budgets(Vec<Room>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    Experts(usize),
    Bytes(u64),
    Percent(f64),
}

impl FromStr for Budgets {
    type Err = String;

    fn from_str(text: &str) -> Result<Budgets, String> {
        let all = text.split(',').map(room).collect::<Option<_>>();
        all.map(Budgets).ok_or_else(|| {
            "must be numbers of experts, memory as in 4GB, or percentages as in 12.5%, with commas between them".into()
        })
    }
}

fn room(text: &str) -> Option<Room> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|p| *p > 0.0 && *p <= 100.0);
        return percent.map(Room::Percent);
    }
    match expert_cache(text) {
        Ok(Budget::Count(n)) => Some(Room::Experts(n)),
        Ok(Budget::Bytes(n)) => Some(Room::Bytes(n)),
        Ok(Budget::Auto) | Err(_) => None,
    }
}

impl Budgets {
    /// Experts that there is room for, for each budget: at least one, at most all.
    ///
    /// # Errors
    /// [`Error::Value`] if that is more than the model has, or not one.
    pub(crate) fn slots(&self, head: &Head) -> Result<Vec<usize>, Error> {
        let n_experts = head.n_experts();
        let slots = |room: &Room| match *room {
            Room::Percent(p) => Ok(((p / 100.0 * n_experts as f64).round() as usize).clamp(1, n_experts)),
            Room::Experts(n) if n > n_experts => {
                Err(refusal(n.to_string(), format!("at most {n_experts}, all there are")))
            }
            Room::Experts(n) => Ok(n),
            Room::Bytes(n) if n < head.expert_bytes => {
                Err(refusal(format!("of {n} bytes"), format!("at least {}, one expert", head.expert_bytes)))
            }
            Room::Bytes(n) => Ok(usize::try_from(n / head.expert_bytes).unwrap_or(usize::MAX).min(n_experts)),
        };
        self.0.iter().map(slots).collect()
    }
}

fn refusal(value: String, allowed: String) -> Error {
    Error::Value { flag: "--budgets".into(), value, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_in_three_ways() {
        let head = Head { n_layer: 4, n_expert: 8, n_used: 2, expert_bytes: 1 << 20 };
        let slots = |text: &str| text.parse::<Budgets>().unwrap().slots(&head).map_err(|e| e.to_string());
        assert_eq!(slots("3,12.5%,8MB,100%,1%,1GB"), Ok(vec![3, 4, 8, 32, 1, 32]));
        assert_eq!(slots("33").unwrap_err(), "--budgets 33: must be at most 32, all there are");
        let large = Head { expert_bytes: 2 << 20, ..head };
        let error = "1MB".parse::<Budgets>().unwrap().slots(&large).unwrap_err().to_string();
        assert_eq!(error, "--budgets of 1048576 bytes: must be at least 2097152, one expert");
        for wrong in ["", "0", "0%", "101%", "nan%", "5%,", "-1", "auto", "1.5", "4 GB", "%"] {
            assert!(wrong.parse::<Budgets>().is_err(), "{wrong}");
        }
    }
}
