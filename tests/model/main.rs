//! The cut's protocol, checked in every order in which a few writes and the agent's steps can happen.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod agent;
mod alone;
mod cut;
mod cuts;
mod judge;
mod kernel;
mod scenario;
mod search;
mod state;

use Phase::*;
use scenario::*;

const LIST: &[Scenario] = &[
    Scenario::new("one", &[write(0, 0, 0)], &[Pass, Cut(2)]),
    Scenario::new("missed", &[write(0, 0, 0), write(0, 0, 1).loses(Loss::CountedIssue)], &[Pass, Cut(2)]),
    Scenario::new("order", &[write(0, 0, 0), write(1, 0, 0).after(0)], &[Pass, Cut(2)]),
    Scenario::new("again", &[write(0, 0, 0), write(1, 0, 0).after(0)], &[Cut(1), Pass, Cut(1)]),
    Scenario::new("summary", &[write(0, 0, 0), write(0, 0, 0).after(0)], &[Pass, Cut(2)]).with_summary(),
    Scenario::new("inherited", &[write(0, 0, 0), write(1, 0, 0).after(0)], &[Cut(2)]).inherited(),
    Scenario::new("lost2", &[write(0, 0, 0).loses(Loss::Completion), write(0, 0, 0).after(0)], &[Pass, Cut(2)]),
    Scenario::new("lostr", &[write(0, 0, 0).loses(Loss::Completion), write(0, 0, 1)], &[Pass, Cut(2)]),
    Scenario::new("counted", &[write(0, 0, 0).loses(Loss::CountedCompletion), write(1, 0, 0).after(0)], &[Pass, Cut(2)]),
    Scenario::new("missed2", &[write(0, 0, 0).loses(Loss::CountedIssue), write(1, 0, 0).after(0)], &[Pass, Cut(2)]),
    Scenario::new("racing2", &[write(0, 0, 0), write(0, 0, 1)], &[Pass, Cut(2)]),
    Scenario::new("order3", &[write(0, 0, 0), write(1, 0, 0).after(0), write(0, 1, 0).after(1)], &[Pass, Cut(2)]),
    Scenario::new("chain4", &[write(0, 0, 0), write(1, 0, 0).after(0), write(0, 0, 0).after(1), write(1, 1, 0).after(2)], &[Cut(2)]),
    Scenario { counts_late: true, ..Scenario::new("late", &[write(0, 0, 0)], &[Cut(2)]) },
];

#[test]
fn basic() {
    let only = std::env::var("ONLY").ok();
    for s in LIST.iter().filter(|s| only.as_ref().is_none_or(|o| o == s.name)) {
        match search::explore(s) {
            Ok(found) => println!("{} ok {} states {} steps {} cuts {:?} {:?}", s.name, found.states, found.steps, found.cuts, found.time, found.reached),
            Err(c) => { println!("{} WRONG {} after {} states", s.name, c.what, c.states); if only.is_some() { println!("{}", c.way) } },
        }
    }
}

const MUTANTS: &[&[Mutant]] = &[
    &[Mutant::LooksInFlightLast], &[Mutant::NextForgetsConflicts], &[Mutant::SettledIgnoresRecent],&[Mutant::CarriesNothing],
    &[Mutant::LooksInFlightLast, Mutant::CarriesNothing], &[Mutant::NextForgetsConflicts, Mutant::CarriesNothing], ];

#[test]
fn mutants() {
    let only = std::env::var("ONLY").ok();
    for m in MUTANTS { 
    for s in LIST.iter().filter(|s| s.name != "late" && s.name != "summary" && s.name != "chain4" && only.as_ref().is_none_or(|o| o == s.name)) {
        match search::explore(&s.broken(*m)) {
            Ok(found) => println!("{m:?} {} SURVIVES {} states {:?}", s.name, found.states, found.time),
            Err(c) => { println!("{m:?} {} killed: {} after {} states", s.name, c.what, c.states); break; },
        }
    } }
}
