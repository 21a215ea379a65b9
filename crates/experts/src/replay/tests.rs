//! What rules have in common, and what is known of each.

use proptest::prelude::*;

use super::*;
use crate::trace::{
    Batch, Layer,
    synth::{Choice, Recipe},
};

fn head(n_layer: usize, n_expert: usize, n_used: usize) -> Head {
    Head { n_layer, n_expert, n_used, expert_bytes: 10 }
}

/// One layer, a batch of one row for each list of experts.
fn decoded(n_expert: usize, rows: &[&[i32]]) -> Replay {
    let batch = |row: &&[i32]| Batch { layers: vec![Layer { layer: 0, n_rows: 1, choices: row.to_vec() }] };
    Replay::new(&Trace { head: head(1, n_expert, rows[0].len()), batches: rows.iter().map(batch).collect() })
}

fn made(n_layer: usize, n_expert: usize, n_used: usize, choice: Choice, tokens: [usize; 3], seed: u64) -> Replay {
    let (head, [n_decode, n_prompt, n_answer]) = (head(n_layer, n_expert, n_used), tokens);
    let recipe = Recipe { head, choice, n_decode, n_prompt, n_answer, keep: 0.0, n_topic: 1, seed };
    Replay::new(&Trace { head, batches: recipe.batches().collect() })
}

fn n_misses(outcome: Outcome) -> u64 {
    outcome.decode.n_misses + outcome.prefill.n_misses
}

#[test]
fn the_least_recently_used_goes() {
    let rows: [&[i32]; 7] = [&[1, 2], &[0, 1], &[1, 2], &[0, 3], &[3, 1], &[2, 3], &[2, 3]];
    // In memory, least recently used first: 1 2, then 2 0 1, 0 1 2, 2 0 3, 0 1 3, 1 2 3.
    let misses = [2, 1, 0, 1, 1, 1, 0];
    for n in 0..rows.len() {
        let outcome = decoded(4, &rows[..=n]).run("lru", 3);
        assert_eq!(outcome.decode.n_misses, misses[..=n].iter().sum::<u64>(), "{} rows", n + 1);
    }
    let outcome = decoded(4, &rows).run("lru", 3).decode;
    assert_eq!(outcome, Tally { n_batches: 7, n_tokens: 7, n_chosen: 14, n_misses: 6 });
    assert!((outcome.hit_rate() - 8.0 / 14.0).abs() < 1e-12);
    assert!((outcome.bytes_per_token(&head(1, 4, 2)) - 60.0 / 7.0).abs() < 1e-12);
}

#[test]
fn one_that_is_wanted_goes_only_if_nothing_else_can() {
    let four = decoded(4, &[&[3, 2, 1, 0], &[3, 2, 1, 0]]);
    // Where all but one fit, the last one goes for the first, and the first for the last.
    assert_eq!([1, 2, 3, 4].map(|n_slots| four.run("belady", n_slots).decode.n_misses), [8, 8, 6, 4]);
    for (policy, _) in policies() {
        let misses = [1, 2, 3, 4].map(|n_slots| four.run(policy, n_slots).decode.n_misses);
        assert!(misses[0] == 8 && misses[3] == 4 && misses.is_sorted_by(|a, b| a >= b), "{policy}: {misses:?}");
    }
}

#[test]
fn belady_keeps_what_comes_next() {
    let rows: [&[i32]; 8] = [&[0], &[1], &[2], &[0], &[3], &[0], &[1], &[2]];
    // 0 1 2 are read; 3 takes the place of 2, the last to come again; 2 that of 3 or another that is over.
    assert_eq!(decoded(4, &rows).run("belady", 3).decode.n_misses, 5);
    assert_eq!(decoded(4, &rows).run("lru", 3).decode.n_misses, 6);
}

#[test]
fn a_scan_does_not_flush_what_is_used_again() {
    // Four all the time, then twelve that come once, then the four again.
    let rows: Vec<[i32; 1]> = (0..40).map(|i| i % 4).chain(4..16).chain(0..4).map(|e| [e]).collect();
    let rows: Vec<&[i32]> = rows.iter().map(<[i32; 1]>::as_slice).collect();
    let replay = decoded(16, &rows);
    let read_again = |policy| replay.run(policy, 10).decode.n_misses - 16;
    assert_eq!(read_again("lru"), 4);
    for policy in ["s3-fifo", "lfu-aged", "ours", "belady"] {
        assert_eq!(read_again(policy), 0, "{policy}");
    }
}

#[test]
fn two_queues_keep_what_came_back_through_a_scan() {
    // 0 and 1 leave the queue of the new ones, come back, and are hot from then on.
    let rows: Vec<[i32; 1]> = (0..10).chain(0..2).chain(10..60).chain(0..2).map(|e| [e]).collect();
    let rows: Vec<&[i32]> = rows.iter().map(<[i32; 1]>::as_slice).collect();
    let misses = |policy, n: usize| decoded(64, &rows[..n]).run(policy, 8).decode.n_misses;
    assert_eq!(misses("2q", 64) - misses("2q", 62), 0);
    assert_eq!(misses("lru", 64) - misses("lru", 62), 2);
}

#[test]
fn a_prompt_does_not_push_out_what_decoding_lives_on() {
    // Rows take turns through all experts while the decoded tokens want the same two.
    let one = |choices: Vec<i32>| Batch { layers: vec![Layer { layer: 0, n_rows: choices.len() / 2, choices }] };
    let mut batches: Vec<Batch> = (0..64).map(|_| one(vec![0, 1])).collect();
    batches.push(one((0..64).chain(0..64).collect()));
    batches.push(one(vec![0, 1]));
    let replay = Replay::new(&Trace { head: head(1, 64, 2), batches });
    assert_eq!(replay.run("ours", 24).decode.n_misses, 2);
    assert_eq!(replay.run("lru", 24).decode.n_misses, 4);
    assert_eq!(replay.run("ours", 24).prefill.n_tokens, 64);
}

#[test]
fn aged_counts_forget() {
    // 0 was chosen often, long ago; 1 twice, now.
    let mut rows = vec![vec![0]; 15];
    rows.extend(vec![vec![1]; 3]);
    rows.extend(vec![vec![2]; 60]);
    rows.extend([vec![1], vec![3], vec![1], vec![3]]);
    let rows: Vec<&[i32]> = rows.iter().map(Vec::as_slice).collect();
    assert_eq!(decoded(4, &rows).run("lfu-aged", 3).decode.n_misses, 4);
}

fn choices() -> impl Strategy<Value = Choice> {
    let skew = 0.0..2.0;
    prop_oneof![
        Just(Choice::Uniform),
        Just(Choice::Cycle),
        skew.clone().prop_map(Choice::Zipf),
        skew.prop_map(Choice::Drift)
    ]
}

proptest! {
    #[test]
    fn nothing_misses_less_than_belady(
        choice in choices(), (n_layer, n_expert) in (1usize..4, 1usize..48), n_used in 1usize..8,
        n_prompt in 0usize..24, n_answer in 1usize..20, part in 0.0..1.0, seed: u64,
    ) {
        let replay = made(n_layer, n_expert, n_used.min(n_expert), choice, [60, n_prompt, n_answer], seed);
        let n_slots = (part * (n_layer * n_expert) as f64) as usize;
        let best = n_misses(replay.run("belady", n_slots));
        for (policy, _) in policies() {
            let found = n_misses(replay.run(policy, n_slots));
            prop_assert!(best <= found, "belady {best}, {policy} {found}");
        }
        prop_assert!(n_misses(replay.run("belady", n_slots + 1)) <= best, "one slot more");
    }

    #[test]
    fn with_room_for_all_each_is_read_once(choice in choices(), n_prompt in 0usize..24, seed: u64) {
        let replay = made(2, 24, 5, choice, [40, n_prompt, 10], seed);
        let mut met: Vec<usize> = replay.met().collect();
        met.sort_unstable();
        met.dedup();
        for (policy, _) in policies() {
            prop_assert_eq!(n_misses(replay.run(policy, 48)), met.len() as u64, "{}", policy);
            prop_assert_eq!(replay.run(policy, usize::MAX), replay.run(policy, 48));
        }
    }
}
