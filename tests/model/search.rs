//! Goes through every state of a scenario, depth first, each once.
//!
//! The library for it, `stateright` 0.31, was looked at: it brings a web server and forty more packages, some in a second
//! version, for what is a hundred lines here; `loom` and `shuttle` explore threads and not a state that can be recognised, so they would
//! go through each order of steps instead of each state. A state that was visited is kept as 64 bits of a hash of it: at ten million
//! states the chance that two of them were taken for one, and something was left out, is below one in a hundred thousand.
//! Deliberately not here: what a step does.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use crate::{
    agent::{KILL, Shell},
    alone::is_alone,
    cuts::Cuts,
    judge,
    kernel::{self, Move},
    scenario::Scenario,
    state::State,
};

/// One step of anybody.
#[derive(Clone, Copy, Debug)]
enum Act {
    Write(usize, Move),
    Agent(u8),
}

/// Everything was seen, and all of it was right.
#[derive(Debug)]
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    pub(crate) cuts: usize,
    pub(crate) reached: BTreeSet<&'static str>,
    pub(crate) time: Duration,
}

/// The way to something that must not be.
#[derive(Debug)]
pub(crate) struct Counterexample {
    pub(crate) what: String,
    pub(crate) way: String,
    pub(crate) states: usize,
}

/// A hash is its own hash.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 64 bits are put in");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Visited = HashSet<u64, BuildHasherDefault<Itself>>;

fn number(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// A state, how it was reached, and what can be done in it that was not tried yet.
struct Place {
    state: State,
    by: Option<Act>,
    left: Vec<Act>,
}

/// Goes through all states of `scenario`.
pub(crate) fn explore(scenario: &Scenario) -> Result<Explored, Box<Counterexample>> {
    let start = Instant::now();
    let mut shell = Shell { scenario, cuts: Cuts::default(), reached: BTreeSet::new() };
    let mut visited = Visited::default();
    let mut steps = 0;
    let first = State::new(scenario.inherited);
    visited.insert(number(&first));
    let mut path = vec![Place { state: first, by: None, left: acts(&shell, &first) }];
    while let Some(place) = path.last_mut() {
        let Some(act) = place.left.pop() else {
            path.pop();
            continue;
        };
        let mut state = place.state;
        steps += 1;
        let outcome = match act {
            Act::Write(w, step) => {
                kernel::make(scenario, &mut state, w, step);
                Ok(())
            }
            Act::Agent(choice) => shell.step(&mut state, choice),
        };
        if let Err(what) = outcome.and_then(|()| judge::remembered(scenario, &state)) {
            return Err(Box::new(Counterexample {
                what,
                way: way(&path, act, &state),
                states: visited.len(),
            }));
        }
        if visited.insert(number(&state)) {
            let left = acts(&shell, &state);
            path.push(Place { state, by: Some(act), left });
        }
    }
    let (states, cuts, reached) = (visited.len(), shell.cuts.len(), shell.reached);
    Ok(Explored { states, steps, cuts, reached, time: start.elapsed() })
}

fn acts(shell: &Shell<'_>, state: &State) -> Vec<Act> {
    let kill = shell.restart(state).map(|_| Act::Agent(KILL));
    let agent = (0..shell.choices(state)).map(Act::Agent).chain(kill);
    if !shell.scenario.in_full && is_alone(shell.scenario, state) {
        return agent.collect();
    }
    let writes = (0..shell.scenario.writes.len()).flat_map(|w| {
        kernel::moves(shell.scenario, state, w).into_iter().map(move |step| Act::Write(w, step))
    });
    agent.chain(writes).collect()
}

/// The steps that led there, for a reader.
fn way(path: &[Place], last: Act, state: &State) -> String {
    let mut text = String::new();
    let mut line = |before: &State, act: &Act| {
        let agent = &before.agent;
        let _ = match act {
            Act::Write(w, step) => writeln!(text, "    write {}: {step:?}", w + 1),
            Act::Agent(choice) => {
                let (round, d, block) = (agent.round, agent.disk, agent.block);
                let of_read = matches!(agent.way, crate::state::Way::Cut) || agent.left != [0; 2];
                let place = if of_read { format!("disk {d} block {block}") } else { format!("disk {d}") };
                let choice = if *choice > 0 { ", the other way" } else { "" };
                writeln!(text, "{:?} {round}: {:?} {place}{choice}", agent.way, agent.step)
            }
        };
    };
    for (before, place) in path.iter().zip(&path[1..]) {
        if let Some(act) = &place.by {
            line(&before.state, act);
        }
    }
    if let Some(before) = path.last() {
        line(&before.state, &last);
    }
    let _ = writeln!(text, "then: {state:#?}");
    text
}
