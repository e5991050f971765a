//! A deploy: one process after the other is replaced, while some are killed.

use crate::fleet::{Fleet, Program, Role};

/// Forward twice, and back once, with so many processes of each program that work, and of the later ones one that only
/// answers commands and queries.
pub(crate) fn forward_and_back(fleet: &mut Fleet, processes: usize) {
    (0..processes).for_each(|_| fleet.start(Program::Old, Role::Works));
    fleet.ready(Program::Old);
    fleet.strike();
    fleet.check(Program::Old);

    // What the new one withdraws is passed by the old one, until a process of the new one works.
    fleet.start(Program::New, Role::LooksOn);
    fleet.commands(Program::New);
    fleet.check(Program::Old);
    fleet.start(Program::New, Role::Works);
    fleet.strike();
    fleet.check(Program::New);
    fleet.check(Program::Old);
    fleet.absence(Program::New, Program::Old);
    fleet.strike();
    fleet.check(Program::New);
    fleet.check(Program::Old);

    // From here on the old one meets events that it cannot read: it waits at them, and parks nothing.
    fleet.unreadable_for_old = true;
    fleet.strike();
    replace(fleet, Program::Old, Program::New);
    fleet.strike();
    fleet.check(Program::New);

    fleet.start(Program::Newest, Role::LooksOn);
    replace(fleet, Program::New, Program::Newest);
    fleet.strike();
    fleet.check(Program::Newest);

    fleet.start(Program::New, Role::LooksOn);
    replace(fleet, Program::Newest, Program::New);
    fleet.strike();
    fleet.quiet();
    fleet.check(Program::New);
    fleet.end();
}

/// One process of the one program for one of the other, as soon as it is ready.
fn replace(fleet: &mut Fleet, from: Program, to: Program) {
    for at in 0..fleet.of(from, Role::Works).len() {
        if fleet.of(to, Role::Works).len() <= at {
            fleet.start(to, Role::Works);
        }
        fleet.strike();
        fleet.check(to);
        // Those that look on go before the last one that works for them.
        fleet.of(from, Role::LooksOn).iter().for_each(|name| fleet.stop(name));
        let next = fleet.of(from, Role::Works).remove(0);
        fleet.stop(&next);
    }
}
